"""A recipe carried out step by step: trace, calibrate, plan, apply; each step saved, so that a killed run continues."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pydantic
import torch
from torch import nn

from lissom.errors import RunFolderError
from lissom.files import load_tensors, save_tensors
from lissom.graph.trace import Trace, evaluation, trace
from lissom.measure.metric_records import MetricValue, Quality
from lissom.measure.quality import assess
from lissom.metrics import metrics_of
from lissom.pipeline.teachers import with_teachers
from lissom.recipe import Recipe
from lissom.runfolder import RunFolder, StageFolder
from lissom.target import Target, load_target
from lissom.task import Task
from lissom.transforms.base import ALONE, Plan, Transform, Work

VALIDATION_LIMIT = 1000
"""Examples of the validation split that steps and candidates are judged on; the final figure uses the whole split."""


class StepState(pydantic.BaseModel):
    """A finished step, as saved."""

    plan: dict[str, Any]
    seconds: float
    quality: Quality | None
    notes: dict[str, pydantic.JsonValue] = {}


@dataclass(frozen=True, eq=False)
class Step:
    """A finished step: the trace it started from, its plan, the model after it."""

    transform: Transform
    trace: Trace
    plan: Plan
    model: nn.Module
    seconds: float
    quality: Quality | None
    """On (the first examples of) the validation split."""
    notes: Mapping[str, pydantic.JsonValue]
    """What the work found out that the plan could not know: `Work.note`."""

    @property
    def metric(self) -> MetricValue | None:
        """The task's own."""
        return self.quality.metric if self.quality else None


@dataclass(frozen=True, eq=False)
class Planned:
    """A step of a dry run."""

    transform: Transform
    trace: Trace
    study: Any
    plan: Plan


def plan(model: nn.Module, task: Task, recipe: Recipe, target: str | Target = "onnxruntime") -> list[Plan]:
    """Dry run: the plan of every step. The model is not changed; later plans come from a copy after earlier steps.

    Training is planned and not done: the plans after it are those of the weights before it.

    Raises:
        TargetError: no such target.
        DataError: a step needs data that the task lacks.
    """
    return [planned.plan for planned in dry_run(model, task, recipe, target)]


def dry_run(model: nn.Module, task: Task, recipe: Recipe, target: str | Target = "onnxruntime") -> Iterator[Planned]:
    """As `plan`, step by step, with the trace and the study that each plan came from."""
    found = load_target(target) if isinstance(target, str) else target
    work, task = Work(original=model), with_teachers(task)
    plans: list[Plan] = []
    for index, step in enumerate(recipe.steps):
        traced = trace(model, task.example)
        one = step.following(plans, traced.graph)
        study = one.study(model, traced, task, found, work)
        made = one.plan(traced.graph, study, found)
        plans.append(made)
        yield Planned(one, traced, study, made)
        if index + 1 < len(recipe.steps):
            carry_out = one.restructure if one.trains else one.apply
            model = carry_out(model, made, traced, task)


def transform(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    target: Target,
    *,
    folder: RunFolder | StageFolder | None = None,
    prefix: str = "",
    measure: bool = False,
    work: Work = ALONE,
) -> list[Step]:
    """Carry out a recipe. With a folder, finished steps are saved there and replayed when found.

    What teachers answered is kept there until the last step is done: steps with the same teachers ask once.
    """
    steps: list[Step] = []
    answers = folder.state / f"{prefix}answers" if folder else None
    work = replace(work, original=model if work.original is None else work.original, target=target, answers=answers)
    for index, one in enumerate(recipe.steps):
        name = f"{prefix}step-{index + 1}-{one.name.lower()}"
        kept = folder.state / f"{name}.work" if folder else None
        own = replace(work, folder=kept, tick=_share(work.tick, recipe, index))
        step = _step(model, task, one, [step.plan for step in steps], folder, name, measure, own)
        steps.append(step)
        model = step.model
        own.tick(1.0)
    if answers:
        shutil.rmtree(answers, ignore_errors=True)
    return steps


def _share(tick: Callable[[float], None], recipe: Recipe, index: int) -> Callable[[float], None]:
    """Progress of one step as progress of the recipe, by the seconds that its steps are expected to take."""
    seconds = [step.expected_seconds for step in recipe.steps]
    before, total = sum(seconds[:index]), sum(seconds)
    return lambda share: tick((before + min(share, 1.0) * seconds[index]) / total)


def _step(
    model: nn.Module,
    task: Task,
    given: Transform,
    plans: Sequence[Plan],
    folder: RunFolder | StageFolder | None,
    name: str,
    measure: bool,
    work: Work,
) -> Step:
    started, target = time.perf_counter(), work.target
    assert target is not None, "transform says which"
    traced = work.traced if work.traced and model is work.original else trace(model, task.example)
    one = given.following(plans, traced.graph)
    notes: dict[str, pydantic.JsonValue] = {}
    settled: list[Plan] = []
    work = replace(work, note=notes.__setitem__, settle=settled.append)

    def carried_out() -> tuple[Plan, nn.Module]:
        made = one.plan(traced.graph, one.study(model, traced, task, target, work), target)
        after = one.apply(model, made, traced, task, work)
        return (settled[-1] if settled else made), after

    if folder is None:
        made, after = carried_out()
        return Step(given, traced, made, after, time.perf_counter() - started, None, notes)

    weights = folder.state / f"{name}.safetensors"
    built: list[nn.Module] = []

    def compute() -> StepState:
        made, after = carried_out()
        built.append(after)
        seconds = time.perf_counter() - started
        quality = validate(after, task) if measure else None
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(weights, state_of(after))
        return StepState(plan=made.model_dump(mode="json"), seconds=seconds, quality=quality, notes=notes)

    held: dict[str, torch.Tensor] = {}

    def holds(saved: StepState) -> bool:
        with contextlib.suppress(RunFolderError):
            held.update(load_tensors(weights))
            return True
        return False

    saved = folder.stage(name, StepState, compute, holds=holds)
    if work.folder:
        shutil.rmtree(work.folder, ignore_errors=True)
    made = one.read_plan(saved.plan)
    after = built[0] if built else one.restructure(model, made, traced, task)
    if not built:
        load_state(after, held)
    return Step(given, traced, made, after, saved.seconds, saved.quality, saved.notes)


def validate(model: nn.Module, task: Task, *, limit: int | None = VALIDATION_LIMIT) -> Quality | None:
    """The metrics of a torch model on (the first examples of) the validation split; None without one."""
    if task.metric is None or not task.has("validation"):
        return None

    def predict(batch: Any) -> Any:
        with torch.no_grad():
            return model(*batch.args, **batch.kwargs)

    with evaluation(model):
        return assess(predict, task.batches("validation", limit=limit), metrics_of(task), split="validation")


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


def load_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    model.load_state_dict(state, strict=True)
