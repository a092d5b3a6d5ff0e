"""What every method of adding a task starts from, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import UsageError, first_line
from lissom.graph.agreement import outputs
from lissom.graph.trace import evaluation
from lissom.lifelong.anatomy import Anatomy
from lissom.lifelong.backbone import Addition
from lissom.measure.lifelong import Attempt, Split
from lissom.measure.quality import evaluate
from lissom.measure.records import MetricValue
from lissom.metrics import as_metric
from lissom.task import Batch, Task
from lissom.training.agreement import PLAIN
from lissom.training.chance import seed_of
from lissom.training.finetune import finetune
from lissom.training.objective import Objective, Penalty, supervised
from lissom.training.pace import computed, device_of
from lissom.training.settings import Training


@dataclass(frozen=True, eq=False)
class Ground:
    """A task that is being added."""

    anatomy: Anatomy
    name: str
    task: Task
    classes: int
    index: int
    folder: Path
    """Of checkpoints: a training that was killed goes on, one that was finished is read back."""
    seed: int
    tick: Callable[[float, str], None]

    def train(
        self,
        model: nn.Module,
        training: Training,
        stage: str,
        *,
        objective: Objective = supervised,
        penalty: Penalty | None = None,
    ) -> nn.Module:
        """A trained copy. What is zero may change: it is free, not pruned."""
        return finetune(
            model,
            self.task,
            training.model_copy(update={"keep_zeros": False}),
            folder=self.folder / stage,
            tick=lambda share: self.tick(share, stage.replace("/", ", ").replace("-", " ")),
            seed=seed_of("lifelong", self.seed, self.index, stage),
            objective=objective,
            penalty=penalty,
        ).model

    def metric(self, model: nn.Module) -> MetricValue | None:
        return metric_of(model, self.task, "validation")


@dataclass(frozen=True, eq=False)
class Made:
    """A task that is ready to be stored."""

    model: nn.Module
    metric: MetricValue | None
    width: float
    private: dict[str, Tensor]
    attempts: tuple[Attempt, ...]
    goal: float | None
    weights: int
    own: int
    used: int
    free: int
    addition: Addition | None = None
    """Of methods with masks."""
    shared: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Of methods that let weights drift: all shared weights."""
    memory: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    notes: tuple[str, ...] = ()


def metric_of(model: nn.Module, task: Task, split: Split) -> MetricValue | None:
    """None where the task has no metric or no such split."""
    if task.metric is None or not task.has(split):
        return None
    device = device_of(model)

    def predict(batch: Batch) -> Any:
        batch = computed(batch, device, PLAIN)
        return model(*batch.args, **batch.kwargs)

    with evaluation(model):
        return evaluate(predict, task.batches(split), as_metric(task.metric), split=split)


@torch.no_grad()
def load_(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Put values into a model that was just made; names that are not given stay as they are."""
    own = model.state_dict()
    for name, value in state.items():
        own[name].copy_(value)
    return model


def check_inputs(model: nn.Module, task: Task, name: str, known: Batch | None) -> None:
    """
    Raises:
        UsageError: the model cannot take this task's inputs; names the shapes of both.
    """
    example = task.example
    try:
        with torch.no_grad():
            outputs(model, computed(example, device_of(model), PLAIN))
    except (RuntimeError, TypeError, ValueError, IndexError) as wrong:
        here = [tuple(t.shape) for t in example.tensors()]
        before = f"; the first task has {[tuple(t.shape) for t in known.tensors()]}" if known else ""
        raise UsageError(
            f"The backbone cannot take the inputs of the task {name!r}, of shapes {here}{before} "
            f"({first_line(wrong)}). Resize or pad them, give Task(feed=...) that does, or make a folder "
            "of its own for such inputs."
        ) from wrong


def classes_of(task: Task, name: str, wanted: int | None, given: int) -> tuple[int, tuple[str, ...]]:
    """Outputs of the task's head, and a note where they are not those of the model as it was given.

    Only targets that are one class for each example, (batch,) integers, say how many classes are needed.

    Raises:
        UsageError: the targets have more classes than were asked for.
    """
    needed = 0
    for batch in task.batches("train") if task.has("train") else ():
        target = batch.target
        if not isinstance(target, Tensor) or target.is_floating_point() or target.ndim != 1:
            needed = 0
            break
        needed = max(needed, int(target.max()) + 1)
    if wanted is not None and wanted < needed:
        raise UsageError(
            f"classes={wanted}, but the targets of the task {name!r} reach {needed - 1}. Set classes={needed}, or "
            "number the targets from 0."
        )
    classes = wanted if wanted is not None else max(given, needed)
    note = (f"The head has {classes} classes instead of {given}.",) if classes != given else ()
    return classes, note
