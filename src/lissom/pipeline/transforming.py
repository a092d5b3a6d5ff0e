"""A recipe carried out step by step: trace, calibrate, plan, apply; each step saved, so that a killed run continues."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic
import torch
from torch import nn

from lissom.errors import RunFolderError
from lissom.graph.statistics import Statistics, observe
from lissom.graph.trace import Trace, evaluation, trace
from lissom.measure.quality import evaluate
from lissom.measure.records import MetricValue
from lissom.metrics import as_metric
from lissom.pipeline.arguments import calibration_split
from lissom.recipe import Recipe
from lissom.runfolder import RunFolder, load_tensors, save_tensors
from lissom.target import Target, load_target
from lissom.task import Task
from lissom.transforms.base import Plan, Transform

VALIDATION_LIMIT = 1000
"""Examples of the validation split that steps and candidates are judged on; the final figure uses the whole split."""


class StepState(pydantic.BaseModel):
    """A finished step, as saved."""

    plan: dict[str, Any]
    seconds: float
    metric: MetricValue | None


@dataclass(frozen=True, eq=False)
class Step:
    """A finished step: the trace it started from, its plan, the model after it."""

    transform: Transform
    trace: Trace
    plan: Plan
    model: nn.Module
    seconds: float
    metric: MetricValue | None


def plan(model: nn.Module, task: Task, recipe: Recipe, target: str | Target = "onnxruntime") -> list[Plan]:
    """Dry run: the plan of every step. The model is not changed; later plans come from a copy after earlier steps.

    Raises:
        TargetError: no such target.
        DataError: a step needs data that the task lacks.
    """
    found = load_target(target) if isinstance(target, str) else target
    return [step.plan for step in transform(model, task, recipe, found)]


def transform(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    target: Target,
    *,
    folder: RunFolder | None = None,
    prefix: str = "",
    measure: bool = False,
    tick: Callable[[float], None] | None = None,
) -> list[Step]:
    """Carry out a recipe. With a folder, finished steps are saved there and replayed when found."""
    steps: list[Step] = []
    for index, one in enumerate(recipe.steps):
        name = f"{prefix}step-{index + 1}-{one.name.lower()}"
        step = _step(model, task, one, target, folder, name, measure)
        steps.append(step)
        model = step.model
        if tick:
            tick((index + 1) / len(recipe.steps))
    return steps


def _step(
    model: nn.Module,
    task: Task,
    one: Transform,
    target: Target,
    folder: RunFolder | None,
    name: str,
    measure: bool,
) -> Step:
    started = time.perf_counter()
    traced = trace(model, task.example)
    if folder is None:
        made = one.plan(traced.graph, _statistics(traced, task, one, target), target)
        after = one.apply(model, made, traced, task)
        return Step(one, traced, made, after, time.perf_counter() - started, None)

    weights = folder.state / f"{name}.safetensors"
    built: list[nn.Module] = []

    def compute() -> StepState:
        made = one.plan(traced.graph, _statistics(traced, task, one, target), target)
        after = one.apply(model, made, traced, task)
        built.append(after)
        seconds = time.perf_counter() - started
        metric = validate(after, task) if measure else None
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, state_of(after))
        return StepState(plan=made.model_dump(mode="json"), seconds=seconds, metric=metric)

    held: dict[str, torch.Tensor] = {}

    def holds(saved: StepState) -> bool:
        with contextlib.suppress(RunFolderError):
            held.update(load_tensors(weights))
            return True
        return False

    saved = folder.stage(name, StepState, compute, holds=holds)
    made = one.read_plan(saved.plan)
    after = built[0] if built else one.apply(model, made, traced, task)
    if not built:
        load_state(after, held)
    return Step(one, traced, made, after, saved.seconds, saved.metric)


def _statistics(traced: Trace, task: Task, one: Transform, target: Target) -> Statistics | None:
    if "calibration" not in one.needs():
        return None
    split = calibration_split(one, task)
    limit = getattr(one, "samples", None)
    return observe(traced, task.batches(split, limit=limit), one.watch(traced.graph, target))


def validate(model: nn.Module, task: Task, *, limit: int | None = VALIDATION_LIMIT) -> MetricValue | None:
    """The metric of a torch model on (the first examples of) the validation split; None without one."""
    if task.metric is None or not task.has("validation"):
        return None

    def predict(batch: Any) -> Any:
        with torch.no_grad():
            return model(*batch.args, **batch.kwargs)

    with evaluation(model):
        return evaluate(predict, task.batches("validation", limit=limit), as_metric(task.metric), split="validation")


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def load_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    model.load_state_dict(state, strict=True)
