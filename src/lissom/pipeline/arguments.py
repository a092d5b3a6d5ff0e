"""What can be refused before any work is done and anything is written."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from lissom.errors import DataError, GoalError, UsageError
from lissom.goal import Goal
from lissom.graph.graph import Graph
from lissom.measure.energy import survey
from lissom.measure.judge import impossible
from lissom.measure.metric_records import ClassShares, MetricValue
from lissom.measure.records import Latency, Side
from lissom.metrics import metrics_of
from lissom.recipe import Recipe
from lissom.task import SPLITS, Task
from lissom.training.settings import Training
from lissom.training.teacher import identity_of_task
from lissom.transforms.base import calibration_split

BUDGET_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
FORMAT_BYTES = 100_000
"""More than any runtime's file takes besides the weights of a small model."""


def check_arguments(model: object, task: object, recipe: object, goal: object) -> None:
    """
    Raises:
        UsageError: an argument of another type.
        GoalError: the goal limits energy, and this machine does not tell it.
    """
    for name, value, kind in (("model", model, nn.Module), ("task", task, Task)):
        if not isinstance(value, kind):
            raise UsageError(f"compress takes a {kind.__name__} as its {name}, got {type(value).__name__}.")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise UsageError(f"recipe must be a lissom.Recipe, got {type(recipe).__name__}. Write Recipe([Fold(), ...]).")
    if goal is not None and not isinstance(goal, Goal):
        raise UsageError(f"goal must be a lissom.Goal, got {type(goal).__name__}. Write Goal(metric_drop=0.01).")
    if goal is not None and goal.by_energy:
        meter, reason = survey()
        if meter is None:
            raise GoalError(f"The goal limits energy, and {reason}. Leave it out of the goal, or use another machine.")


def check_needs(recipe: Recipe, task: Task, made_up: Collection[str] = ()) -> None:
    """`made_up`: splits that the task does not have yet and will.

    Raises:
        DataError: a step needs data that the task does not have.
    """
    for step in recipe.steps:
        for split in sorted(step.needs() - set(made_up)):
            if split == "calibration":
                calibration_split(step.name, task)
            elif not task.has(split):
                made_up = " Or let inputs be made up: data_free='auto', --data-free auto." if split == "train" else ""
                raise DataError(f"{step.name} needs Task({split}=...), which was not given.{made_up}")


def taught_by(recipe: Recipe | None, task: Task) -> str | None:
    """Fingerprint of the task's teacher if a step learns from it: with another one, it is another run.

    Raises:
        DataError: a step learns from it, and there is none.
    """
    steps = recipe.steps if recipe else ()
    return identity_of_task(task) if any(isinstance(s, Training) and "task" in s.teachers for s in steps) else None


def check_data(task: Task) -> None:
    """The first batch of every split: an empty test set should not come to light after an hour's work.

    Raises:
        DataError: a split is empty, exhausted, or its first batch is unusable.
    """
    for split in SPLITS:
        if task.has(split):
            next(task.batches(split))


def refuse_impossible(goal: Goal, graph: Graph, task: Task, *, size_bytes: int | None = None) -> None:
    """What arithmetic rules out with the traced graph and, once it is known, the original's size.

    Raises:
        GoalError: no model could meet the goal.
    """
    measured = task.metric is not None and (task.has("test") or task.has("validation"))
    # A value outside [0, 1]: whether the metric is a share of examples is not known yet.
    named = metrics_of(task) if measured else ()
    metrics = [MetricValue(name=one.name, value=2.0, samples=1, split="test") for one in named]
    apart = next((one.name for one in named if one.by_class is not None), None)
    classes = ClassShares(metric=apart, split="test", labels=(0,), examples=(1,), shares=(1.0,)) if apart else None
    reason = impossible(
        goal,
        Side(
            metric=metrics[0] if metrics else None,
            metrics=tuple(metrics[1:]),
            classes=classes,
            latency_ms=Latency(median=0.0, low=0.0, high=0.0, p95=0.0, samples=()),
            batch_size=1,
            size_bytes=size_bytes or 2 * graph.bytes + FORMAT_BYTES,
            parameters=graph.parameters,
            macs=graph.macs,
            peak_memory_bytes=None,
        ),
    )
    if reason:
        raise GoalError(reason)


def check_weights(model: nn.Module) -> None:
    """
    Raises:
        DataError: a parameter or buffer holds NaN or infinite values.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(
                f"The model's weight {name!r} holds NaN or infinite values. Load a sound checkpoint: nothing measured "
                "on this model would mean anything."
            )


def seconds(budget: str | float) -> float:
    """`"10min"`, `"1h"`, `"90s"` or a number of seconds.

    Raises:
        UsageError: not a positive time.
    """
    text = str(budget).strip().lower()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(digits) :].strip() or "s"
    try:
        value = float(digits) * BUDGET_UNITS[unit]
    except (ValueError, KeyError) as wrong:
        raise UsageError(f"The budget {budget!r} is not a time. Write 90s, 10min or 1h.") from wrong
    if not 0 < value < float("inf"):
        raise UsageError(f"The budget must be a positive time, got {budget!r}. Write 90s, 10min or 1h.")
    return value
