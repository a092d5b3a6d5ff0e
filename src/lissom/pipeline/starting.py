"""The recipe that a search starts from for a goal, and what is foreseen of it: nothing is trained."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lissom.errors import DataError, GoalError, LissomError, first_line
from lissom.goal import Goal
from lissom.graph.graph import Graph
from lissom.graph.trace import trace
from lissom.measure.environment import available_cores, environment, machine
from lissom.metrics import metrics_of
from lissom.pipeline.arguments import refuse_impossible
from lissom.pipeline.evaluating import Evaluator
from lissom.pipeline.foresight import Foresight, foresee
from lissom.pipeline.quiet import Quiet
from lissom.pipeline.transforming import validate
from lissom.recipe import Recipe
from lissom.runfolder import StageFolder
from lissom.search import Foreseen, Measurement, Point, foresee_wishes, start
from lissom.search.opening import open_space
from lissom.target import Target
from lissom.task import Task

TRIES = 8
"""Guesses whose dry run may fail before there is nothing to show."""
MEASURED = ("latency_ms", "latency_p95_ms", "throughput", "size_bytes", "peak_memory_bytes", "energy_joules")
"""Wishes in units of their own: what they mean for this model is known when the original was measured."""


@dataclass(frozen=True)
class Start:
    """A first guess. `notes` say what was passed over and what is not known before a search."""

    recipe: Recipe
    steps: list[Foresight]
    wishes: tuple[Foreseen, ...]
    notes: tuple[str, ...]


def start_for(model: nn.Module, task: Task, goal: Goal, target: Target) -> Start:
    """What `compress` with a budget would try first for this goal. The model is not changed.

    Costs are counted on a dry run where they can be; latency, energy, memory and the drop are what such changes usually
    do. The original is measured on the target if the goal has wishes in milliseconds, bytes or joules.

    Raises:
        DataError: the task cannot tell a good candidate from a bad one.
        GoalError: the goal is impossible for any model, or no guess can be made.
        TargetError: the original has to be measured, and the target is not installed.
    """
    goal = goal.of_metric(metrics_of(task)[0].name) if task.metric is not None else goal
    traced = trace(model, task.example)
    graph = traced.graph
    refuse_impossible(goal, graph, task)
    space, original = open_space(traced, task, target), _original(model, task, goal, target, graph)
    failed: dict[Point, str] = {}
    while len(failed) < TRIES:
        point = start(space, goal, original, failed=tuple(failed), step=target.channel_multiple)
        if point is None:
            break
        recipe = space.recipe(point)
        try:
            steps = foresee(model, task, recipe, target)
        except LissomError as wrong:
            failed[point] = f"Passed over: {recipe.title}. {first_line(wrong)}"
            continue
        cost = steps[-1].plan.predicted
        counted = {
            "MACs": cost.macs / max(graph.macs, 1),
            "parameters": cost.parameters / max(graph.parameters, 1),
            "size": cost.bytes / max(graph.bytes, 1),
        }
        seen = foresee_wishes(space, goal, original, point, counted, step=target.channel_multiple)
        return Start(recipe, steps, seen, (*failed.values(), *_notes(goal, space.epochs[1:])))
    raise GoalError(
        f"No recipe can be made to start from for this goal. {' '.join(failed.values())} Wish for less, or give a "
        "recipe."
    )


def _original(model: nn.Module, task: Task, goal: Goal, target: Target, graph: Graph) -> Measurement:
    if any(getattr(goal, name) is not None for name in MEASURED):
        threads = available_cores()
        with tempfile.TemporaryDirectory(prefix="lissom-") as scratch:
            place = Path(scratch)
            return Evaluator(
                model, task, target, StageFolder(place, 0), Quiet(place / "quiet"), threads, task.example.size, 0,
                goal.peak_memory_bytes is not None, machine(environment(threads)), goal.by_class, goal.by_energy,
            ).original()  # fmt: skip
    found = validate(model, task)
    if found is None:
        raise DataError("A goal is judged by the metric on validation data. Give Task(metric=..., validation=...).")
    return Measurement(
        metric=found.metric.value,
        metrics=found.by_name,
        classes=found.classes.by_label if goal.by_class and found.classes else {},
        examples=found.metric.samples,
        latency_ms=1.0,  # the unit: every wish is a ratio
        latency_ratio=1.0,
        latency_low=1.0,
        latency_high=1.0,
        size_bytes=graph.bytes,
        macs=graph.macs,
        parameters=graph.parameters,
    )


def _notes(goal: Goal, epochs: tuple[int, ...]) -> tuple[str, ...]:
    said = ["Foreseen, not measured: compress --budget begins here, measures, and corrects what it foresees."]
    if epochs:
        most = ", ".join(map(str, epochs))
        said.append(f"Candidates that lost too much are trained there, the best ones for {most} epochs.")
    if any(getattr(goal, name) is not None for name in ("latency_ratio", "latency_ms", "throughput", "latency_p95_ms")):
        said.append("It first times layers on the target, which may change this guess.")
    return tuple(said)
