"""`Finetune`: the task's training data and loss, one loop, a model of the same structure with better weights.

The loop is `lissom.training.finetune`. What it computes in (float32 or bfloat16, which memory order) is measured while
the model is studied and stands in the plan. With `teacher`, the loss is that of `lissom.training.distillation`;
with `synthesis`, the inputs are those of `lissom.training.synthesis`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import pydantic
from torch import nn

from lissom.graph.graph import Graph
from lissom.graph.trace import Trace
from lissom.measure.records import DistillationRecord
from lissom.target import Target
from lissom.task import Split, Task
from lissom.training.agreement import compared
from lissom.training.checks import check
from lissom.training.distillation import distillation_of
from lissom.training.finetune import finetune
from lissom.training.history import Pace
from lissom.training.objective import Objective, supervised
from lissom.training.pace import device_of, pace_of
from lissom.training.regularization import regularizer_of
from lissom.training.settings import Training
from lissom.training.synthesis.source import source_of
from lissom.transforms.base import ALONE, Action, Cost, Plan, Stage, Transform, Work, clone

SECONDS_PER_EPOCH = 30.0
"""Of tens of thousands of small images, on a few cores: far above everything else in a recipe."""


class Train(Action):
    """Train the whole model: `parameters` numbers, computed in `precision` and in that memory order.

    "auto" is what a plan made without a look at the data says: measured when training begins.
    """

    kind: Literal["train"] = "train"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    layer: str = ""
    """The root: the model itself."""
    parameters: int
    precision: Literal["auto", "float32", "bfloat16"]
    channels_last: bool | Literal["auto"]


def _off(value: object) -> bool:
    return value is False


class Finetune(Training, Transform):
    """Train the model on `Task.train` with `Task.loss`; every field of `lissom.training.settings.Training`.

    Attributes:
        control: with a teacher, train a second time without one and compare; that model is not kept.
    """

    control: Annotated[bool, pydantic.Field(exclude_if=_off)] = False

    stage: ClassVar[Stage] = "train"
    trains: ClassVar[bool] = True
    actions: ClassVar[dict[str, type[Action]]] = {"train": Train}

    @pydantic.model_validator(mode="after")
    def _controlled(self) -> Finetune:
        if self.control and not self.teachers:
            raise ValueError("control=True is the same training without a teacher, and there is none. Leave it out")
        if self.control and self.synthesis:
            raise ValueError(
                "control=True trains without a teacher, and made up inputs have no other answers. Leave one out"
            )
        return self

    @property
    def _trainings(self) -> int:
        return (self.rounds or 1) + self.control

    @property
    def expected_seconds(self) -> float:
        return SECONDS_PER_EPOCH * self.epochs * self._trainings

    def needs(self) -> frozenset[Split]:
        wanted: dict[Split, bool] = {"train": self.synthesis is None, "validation": self.patience is not None}
        return frozenset(split for split, is_wanted in wanted.items() if is_wanted)

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Pace:
        """The faster way to compute, measured on two training batches.

        Raises:
            DataError: no training data or loss, or they do not fit the model; no teacher, or one that does not fit.
            RecipeError: a regularizer, and no channel of the model can be cut; inner values that cannot be compared.
        """
        check(model, task, self)
        regularizer_of(model, trace, self._training(), 1)
        training = self._training()
        objective: Objective = supervised
        original = work.original or model
        source = source_of(original, task, training, seed=work.seed, device=device_of(model))
        task = source.sketch(task) if source else task
        if self.teachers:
            objective = distillation_of(model, original, task, training, seed=work.seed, average=None)
        pace = pace_of(model, task, training, objective, folder=work.folder, seed=work.seed)
        work.note("pace", pace.model_dump(mode="json"))
        return pace

    def plan(self, graph: Graph, study: Pace | None, target: Target) -> Plan:
        action = Train(
            parameters=graph.parameters,
            precision=study.precision if study else self.precision,
            channels_last=study.channels_last if study else self.channels_last,
        )
        return Plan(
            transform=self.name,
            settings=self.model_dump(mode="json"),
            actions=(action,),
            skipped=(),
            predicted=Cost(macs=graph.macs, parameters=graph.parameters, bytes=graph.bytes),
        )

    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        (action,) = plan.of(Train)
        measured = {"precision": action.precision, "channels_last": action.channels_last}
        settings = self._training().model_copy(update=measured)
        original = work.original or model

        def tick(first: int, count: int) -> Callable[[float], None]:
            return lambda share: work.tick((first + share * count) / self._trainings)

        rounds = self.rounds or 1
        trained = finetune(
            model, task, settings, folder=work.folder, tick=tick(0, rounds), seed=work.seed, original=original,
            answers=work.answers,
        )  # fmt: skip
        work.note("history", trained.history.model_dump(mode="json"))
        lesson = trained.history.lesson
        if lesson is not None:
            control: nn.Module | None = None
            if self.control:
                folder = work.folder / "control" if work.folder else None
                control = finetune(
                    model, task, settings.alone(), folder=folder, tick=tick(rounds, 1), seed=work.seed
                ).model
            record = DistillationRecord(
                **lesson.model_dump(),
                losses=trained.history.epochs[trained.history.chosen].parts,
                comparison=compared(trained.model, task, settings, original, control),
            )
            work.note("distillation", record.model_dump(mode="json"))
        return trained.model

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        return clone(model)

    def _training(self) -> Training:
        return Training.model_validate(self.model_dump(include=set(Training.model_fields)))
