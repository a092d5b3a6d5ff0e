"""FRONT: pruning, ranks and bits searched together, against pruning first and bits afterwards, and against chance.

The digits network, trained again for every seed. Every candidate that is not the original is trained for `epochs`
after its cuts, then rounded; its objectives are the drop on validation, the bytes of its tensors and its
multiply-accumulates, the last two counted, so that nothing depends on what else the machine does. Three ways have the
same number of evaluations:

    jointly      the searchers of `search="auto"`, one after the other, over the whole space
    in turn      the same over pruning alone, half of the evaluations; then the bits of what is on its front
    by chance    points of the whole space in a drawn order

What counts is the hypervolume of all that was evaluated, up to a drop of 0.1 and the original's costs, as a share.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from benchmarks.cifar import PROJECT, project
from benchmarks.context import Context, remembered
from benchmarks.experiments.d1 import interval
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.errors import LissomError, first_line
from lissom.functional.front import front, hypervolume
from lissom.goal import Goal as Wanted
from lissom.graph.trace import trace
from lissom.pipeline.transforming import transform, validate
from lissom.search import Measurement, Point, Space, Trial, searchers_of
from lissom.search.fitness import objectives, reference, values
from lissom.search.history import view
from lissom.search.opening import open_space, restricted
from lissom.settings import Setting
from lissom.target import load_target
from lissom.task import Task

TITLE = "Fronts of equally many evaluations: searched jointly, pruned first and quantized then, drawn: digits"
NEEDS = ()
TARGET = "onnxruntime"
SEARCHER = "auto"
SEARCHED = Wanted(metric_drop=0.02, size_ratio=16.0, macs_ratio=4.0)
"""Says which costs count; so much of both that no searcher arrives and stops."""
NAMES = ("drop", "size", "MACs")
"""Objectives of that goal."""
JOINT, TURN, CHANCE = "jointly", "in turn", "by chance"


class Sizes(Setting):
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    evaluations: int = 24
    """Of each way; those of training included."""
    epochs: int = 2
    """Of the training after the cuts."""


def goal() -> Goal:
    return Goal(
        text=(
            "the front found jointly dominates more of the space of drop, bytes and multiply-accumulates than that of "
            "pruning first and bits afterwards, and than that of points drawn at random, with as many evaluations; "
            "lower ends of the 95 % t intervals of the differences above 0"
        ),
        wishes=(
            Wish(figure="lower end, jointly over in turn", at_least=0.0),
            Wish(figure="lower end, jointly over by chance", at_least=0.0),
        ),
    )


@dataclass(frozen=True)
class Ground:
    """A network, its space, and how a candidate of it is judged."""

    model: nn.Module
    task: Task
    epochs: int

    @cached_property
    def space(self) -> Space:
        return open_space(trace(self.model, self.task.example), self.task, load_target(TARGET))

    @cached_property
    def original(self) -> Measurement:
        graph = trace(self.model, self.task.example).graph
        return self._measured(self.model, graph.bytes, graph.macs, graph.parameters)

    def __call__(self, point: Point) -> Measurement:
        """
        Raises:
            LissomError: the candidate cannot be made.
        """
        recipe = self.space.recipe(point.with_(epochs=self.epochs if point != Point() else 0))
        last = transform(self.model, self.task, recipe, load_target(TARGET))[-1]
        cost = last.plan.predicted
        return self._measured(last.model, cost.bytes, cost.macs, cost.parameters)

    def _measured(self, model: nn.Module, size: int, macs: int, parameters: int) -> Measurement:
        """Nothing is timed: latencies are those of the original."""
        found = validate(model, self.task, limit=None)
        assert found is not None, "the digits have validation images and a metric"
        return Measurement(
            metric=found.metric.value, examples=found.metric.samples, latency_ms=1.0, latency_ratio=1.0,
            latency_low=1.0, latency_high=1.0, size_bytes=size, macs=macs, parameters=parameters,
        )  # fmt: skip


Judge = Callable[[Point], Measurement | str]
"""A candidate measured, or why it cannot be made."""


def run(context: Context) -> Outcome:
    def ground(seed: int) -> Ground:
        return Ground(*project(PROJECT.with_name("digits.py")).build(seed=seed), Sizes().epochs)

    return compared(context, ground, Sizes())


def compared(context: Context, ground: Callable[[int], Ground], sizes: Sizes) -> Outcome:
    """The experiment for any network that a seed makes."""
    found = [
        remembered(context.kept / f"seed-{seed}", lambda _, seed=seed: ways(context, ground(seed), sizes, seed))
        for seed in sizes.seeds
    ]
    return outcome(sizes, found)


def ways(context: Context, ground: Ground, sizes: Sizes, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Every candidate of each way, in order: its point and its objectives. One that two ways try is judged once.

    Pruning and the bits of its front may be fewer than `evaluations`: then the other ways have as many.
    """
    known: dict[Point, Measurement | str] = {}

    def judge(point: Point) -> Measurement | str:
        if point not in known:
            try:
                known[point] = ground(point)
            except LissomError as wrong:
                known[point] = first_line(wrong)
            context.say(f"seed {seed}, {len(known)} points judged")
        return known[point]

    whole, original, most = ground.space, ground.original, sizes.evaluations
    pruning = restricted(whole, ("depth", "prune"), (), "pruning first")
    first = searched(SEARCHER, pruning, original, judge, most // 2, seed)
    turn = quantized(first, whole, original, judge, most, seed)
    found = {
        JOINT: searched(SEARCHER, whole, original, judge, len(turn), seed),
        TURN: turn,
        CHANCE: searched("random", whole, original, judge, len(turn), seed),
    }
    return {name: [told(trial, original) for trial in trials] for name, trials in found.items()}


def searched(name: str, space: Space, original: Measurement, judge: Judge, most: int, seed: int) -> list[Trial]:
    """What the searchers of a name propose, each its share of `most`; fewer where the space has no more."""
    searchers = searchers_of(name)
    trials: list[Trial] = []
    for stage, searcher in enumerate(searchers, start=1):
        while len(trials) < most * stage // len(searchers):
            point = searcher.propose(view(space, SEARCHED, original, trials, seed=seed))
            if point is None:
                break
            trials.append(judged(len(trials), point, searcher.name, judge))
    return trials


def judged(number: int, point: Point, by: str, judge: Judge) -> Trial:
    trial = Trial(number=number, point=point, recipe=point.model_dump_json(), by=by, state="failed")
    came = judge(point)
    done = {"failure": came} if isinstance(came, str) else {"state": "done", "measurement": came}
    return trial.model_copy(update=done)


def quantized(
    first: Sequence[Trial], space: Space, original: Measurement, judge: Judge, most: int, seed: int
) -> list[Trial]:
    """The trials of pruning, then precisions of those on their front in a drawn order, up to `most` in all."""
    done = [(trial.point, scored(trial.measurement, original)) for trial in first if trial.measurement]
    ahead = [done[at][0] for at in front([own for _, own in done])]
    left = [point.with_(precision=bits) for point in ahead for bits in space.precision[1:]]
    order = np.random.default_rng(seed).permutation(len(left))[: most - len(first)]
    return [*first, *(judged(len(first) + at, left[own], "bits", judge) for at, own in enumerate(order))]


def scored(one: Measurement, original: Measurement) -> tuple[float, ...]:
    return values(objectives(SEARCHED, original), original, one)


def told(trial: Trial, original: Measurement) -> dict[str, Any]:
    own = [round(one, 6) for one in scored(trial.measurement, original)] if trial.measurement else None
    return {"point": trial.point.model_dump(exclude={"epochs"}), "by": trial.by, "objectives": own}


def volume(trials: Sequence[dict[str, Any]]) -> float:
    """Share of the box between the best there could be and the reference that the candidates dominate."""
    corner = reference(NAMES)
    made = [one["objectives"] for one in trials if one["objectives"] is not None]
    return hypervolume(made, corner) / math.prod(corner)


def outcome(sizes: Sizes, found: Sequence[dict[str, list[dict[str, Any]]]]) -> Outcome:
    volumes = {name: [volume(one[name]) for one in found] for name in (JOINT, TURN, CHANCE)}
    return Outcome(
        goal=goal(),
        value={
            **{f"lower end, {JOINT} over {name}": over(volumes, name) for name in (TURN, CHANCE)},
            **{f"hypervolume, {name}": mean(own) for name, own in volumes.items()},
            "candidates on the front with ranks split": Figure(
                value=round(statistics.mean(split(one[JOINT]) for one in found), 2), note="of the front found jointly"
            ),
        },
        reference=(),
        control=tuple(
            Beside(what=f"hypervolume, {name}", value=mean(volumes[name]).value, source="as many evaluations")
            for name in (TURN, CHANCE)
        ),
        seeds=sizes.seeds,
        runs=tuple(
            Run(
                name=f"{name}, seed {seed}",
                figures={"hypervolume": round(own, 5), "evaluations": len(one[name]), "front": len(ahead(one[name]))},
            )
            for at, (seed, one) in enumerate(zip(sizes.seeds, found, strict=True))
            for name, own in ((name, volumes[name][at]) for name in volumes)
        ),
    )


def over(volumes: dict[str, list[float]], name: str) -> Figure:
    """The lower end of the interval of what is gained, seed by seed."""
    gains = [one - other for one, other in zip(volumes[JOINT], volumes[name], strict=True)]
    low, high = interval(gains)
    return Figure(value=round(low, 5), note=f"mean {statistics.mean(gains):.5f}, 95 % [{low:.5f}, {high:.5f}]")


def mean(own: Sequence[float]) -> Figure:
    return Figure(value=round(statistics.mean(own), 5), note=f"from {min(own):.5f} to {max(own):.5f}")


def ahead(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    made = [one for one in trials if one["objectives"] is not None]
    return [made[at] for at in front([one["objectives"] for one in made])]


def split(trials: Sequence[dict[str, Any]]) -> int:
    return sum(one["point"]["rank"] > 1 for one in ahead(trials))
