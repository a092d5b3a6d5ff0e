"""The frame every transform fits: needs, plan, apply, and what a plan is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import JsonValue, SerializeAsAny
from torch import nn

from lissom.errors import DataError
from lissom.graph.graph import Graph
from lissom.graph.trace import Trace, quiet
from lissom.settings import Setting
from lissom.target import Target
from lissom.task import Batch, Split, Task

M = TypeVar("M", bound=nn.Module)


class Action(Setting):
    """One change that a plan makes; each transform has its own kinds."""

    kind: str
    layer: str


class SetBits(Action):
    """How many bits a layer is to have in the `Quantize` step that follows: 32 is float, 8 and 4 are integers.

    A `layer` of `*` stands for all of them. The action changes nothing by itself.
    """

    kind: Literal["set-bits"] = "set-bits"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    bits: Literal[32, 8, 4]


class Skip(Setting):
    """A layer that was selected and is left as it is, and why."""

    layer: str
    reason: str


class Cost(Setting):
    """Predicted cost of the model after a plan."""

    macs: int
    parameters: int
    bytes: int


class Plan(Setting):
    """What a transform will do. Touches no weights, is JSON, and can be replayed on a fresh original."""

    transform: str
    settings: dict[str, Any]
    actions: tuple[SerializeAsAny[Action], ...]
    skipped: tuple[Skip, ...]
    predicted: Cost

    def of(self, kind: type[Action]) -> list[Any]:
        return [action for action in self.actions if isinstance(action, kind)]


Race = Callable[[Mapping[str, nn.Module], Batch], Mapping[str, tuple[float, ...]]]
"""Modules timed side by side on the target, on the inputs that belong to one example: name to milliseconds per call,
one for every round."""
Recovery = Literal["reconstruct", "bias", "none"]
"""What is fitted to the original without labels after a cut: weights and biases, biases only, nothing."""
RIDGE = 1e-3
"""Of that fit, as a share of the inputs' variances."""
Kernels = Callable[[nn.Module], Mapping[str, str]]
"""How the target computes the operators of a module: node of its trace to `int8`, `int8 dynamic`, `float32`, or
`unknown` where it does not tell."""
Stage = Literal["fold", "structure", "train", "quantize"]


def _ignore(_: float) -> None:
    pass


def _ignore_plan(_: Plan) -> None:
    pass


def _unheard(_: str, __: JsonValue) -> None:
    pass


@dataclass(frozen=True)
class Work:
    """What long work is lent: a place for checkpoints, a listener for its progress, a seed.

    `folder` may not exist yet, belongs to one step of one run, and keeps what is in it if the run is killed; None
    means that nothing is kept. `tick` takes the share of the work done, in (0, 1]. `faster` says how many times faster
    a model runs on the target than the one that the recipe was given, measured; `race` times parts of it side by side,
    `kernels` reads back how a model is computed there. All are None where nothing is measured.
    `answers` is the place of what teachers answered, for all steps of the run that have the same ones; it is kept as
    long as the run is not done. `original` is that model, None where a transform is carried out by itself; `traced` is
    its trace, None where nobody made one. `note` hears what the work found out that no plan could know, under
    a name: it is saved with the step and stands in the report. `settle` hears the plan with the numbers that were
    learned while it was carried out; it is kept in place of the first one. `target` is what the recipe is carried out
    for; None where a transform is carried out by itself.
    """

    folder: Path | None = None
    tick: Callable[[float], None] = _ignore
    seed: int = 0
    faster: Callable[[nn.Module], float] | None = None
    race: Race | None = None
    kernels: Kernels | None = None
    original: nn.Module | None = None
    traced: Trace | None = None
    note: Callable[[str, JsonValue], None] = _unheard
    settle: Callable[[Plan], None] = _ignore_plan
    target: Target | None = None
    answers: Path | None = None


ALONE = Work()


class Transform(Setting, ABC):
    """A frozen setting that plans and applies one change of a model.

    `study` looks at the model and its data, `plan` decides (a pure function of what was found), `apply` returns a new
    module. None of them touches the module it was given.
    """

    stage: ClassVar[Stage]
    """Where in a recipe it may stand; see `lissom.recipe`."""
    trains: ClassVar[bool] = False
    """Whether `apply` trains: a dry run then goes on from `restructure`."""
    actions: ClassVar[dict[str, type[Action]]]
    """Kinds of action its plans hold, for reading them back."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def expected_seconds(self) -> float:
        """On a small convolutional network: what the shares of a progress bar are weighed by."""
        return 1.0

    def needs(self) -> frozenset[Split]:
        """Splits of the task without which it cannot work; `calibration` may be taken from `train`."""
        return frozenset()

    def uses(self) -> frozenset[Split]:
        """Splits that it reads: those it needs, and those it looks at where the task has them."""
        return self.needs()

    def following(self, plans: Sequence[Plan], graph: Graph) -> Self:
        """This step with what the plans of the steps before it decided for it; `graph` is of the model it is given."""
        return self

    def study(self, model: nn.Module, trace: Trace, task: Task, target: Target, work: Work = ALONE) -> Any:
        """What `plan` has to know beyond the graph: ranges of activations, importance of channels, or nothing.

        Raises:
            DataError: the data do not fit the model, or make it infinite.
        """
        return None

    @abstractmethod
    def plan(self, graph: Graph, study: Any, target: Target) -> Plan:
        """What would be done; every selected layer is in `actions` or in `skipped`."""

    @abstractmethod
    def apply(self, model: nn.Module, plan: Plan, trace: Trace, task: Task, work: Work = ALONE) -> nn.Module:
        """A new module with the plan carried out. `trace` is of `model`."""

    def restructure(self, model: nn.Module, plan: Plan, trace: Trace, task: Task) -> nn.Module:
        """A module of the structure that `apply` returns, whose weights are about to be loaded. Needs no data."""
        return self.apply(model, plan, trace, task)

    def read_plan(self, data: dict[str, Any]) -> Plan:
        """A plan of this transform from JSON.

        Raises:
            KeyError: an action of a kind this transform does not have.
            ValueError: a field is missing or wrong.
        """
        actions = tuple(self.actions[a["kind"]].model_validate(a) for a in data["actions"])
        return Plan.model_validate({**data, "actions": actions})


def calibration_split(name: str, task: Task) -> Split:
    """The split on which the transform `name` looks at activations.

    Raises:
        DataError: the task has neither calibration nor training data.
    """
    if task.has("calibration"):
        return "calibration"
    if task.has("train"):
        return "train"
    way_out = ", or use Quantize(mode='dynamic'), which needs none" if name == "Quantize" else ""
    raise DataError(
        f"{name} needs calibration data, and the task has none. Give Task(calibration=...) or Task(train=...), or let "
        f"inputs be made up: data_free='auto', --data-free auto{way_out}."
    )


def has_data(task: Task) -> bool:
    """Whether there is a `calibration_split`."""
    return task.has("calibration") or task.has("train")


def clone(model: M) -> M:
    """A deep copy: the caller's module is never touched."""
    with quiet():
        return copy.deepcopy(model)
