"""FRONT on a network that is a formula: who tries what, how often, and what is compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from benchmarks.context import Context
from benchmarks.experiments import front as experiment
from benchmarks.results import met

from lissom.errors import ExportError
from lissom.search import Measurement, Point, Space

SPACE = Space(precision=("float32", "int8", "int4"), prune=(1.0, 1.5, 2.0, 3.0, 4.0), rank=(1.0, 1.5, 2.0))
BITS = {"float32": 32, "int8": 8, "int4": 4}


def measured(metric: float, size: float, macs: float) -> Measurement:
    return Measurement(
        metric=metric, examples=1000, latency_ms=1.0, latency_ratio=1.0, latency_low=1.0, latency_high=1.0,
        size_bytes=round(size), macs=round(macs), parameters=1000,
    )  # fmt: skip


ORIGINAL = measured(0.9, 1e6, 1e6)


@dataclass
class Formula:
    """Ranks save as much as channels and lose a fifth of what these lose; int4 with many channels cut fails."""

    asked: list[Point] = field(default_factory=list)
    space: Space = SPACE
    original: Measurement = ORIGINAL

    def __call__(self, point: Point) -> Measurement:
        self.asked.append(point)
        if point.precision == "int4" and point.prune >= 4:
            raise ExportError("no such kernel")
        lost = 0.05 * math.log(point.prune) ** 2 + 0.01 * math.log(point.rank) ** 2
        saved = point.prune * point.rank
        return measured(0.9 - lost, 1e6 / saved * BITS[point.precision] / 32, 1e6 / saved)


SIZES = experiment.Sizes(seeds=(0, 1, 2), evaluations=15)


def ways(ground: Formula) -> dict[str, list[dict]]:
    context = Context(scratch=Path(), kept=Path(), threads=1, rounds=1, say=lambda _: None)
    return experiment.ways(context, ground, SIZES, 0)


def test_every_way_tries_as_many_and_nothing_is_judged_twice():
    ground = Formula()
    found = ways(ground)
    assert len({len(own) for own in found.values()}) == 1
    for own in found.values():
        points = [tuple(sorted(one["point"].items())) for one in own]
        assert len(set(points)) == len(points) == len(found[experiment.TURN]) <= SIZES.evaluations
    assert len(set(ground.asked)) == len(ground.asked)


def test_in_turn_rounds_what_is_on_the_front_of_pruning_and_splits_nothing():
    own = ways(Formula())[experiment.TURN]
    assert all(one["point"]["rank"] == 1 for one in own)
    first = [one for one in own if one["by"] != "bits"]
    assert {one["point"]["precision"] for one in first} == {"float32"}
    pruned = {one["point"]["prune"] for one in first}
    assert pruned == set(SPACE.prune), "a space of five is seen whole"
    later = [one for one in own if one["by"] == "bits"]
    assert len(later) == 10
    assert {one["point"]["prune"] for one in later} <= pruned
    assert "float32" not in {one["point"]["precision"] for one in later}


def test_a_candidate_that_cannot_be_made_counts_and_dominates_nothing():
    own = ways(Formula())[experiment.TURN]
    failed = [one for one in own if one["objectives"] is None]
    assert [one["point"]["precision"] for one in failed] == ["int4"]
    assert experiment.volume(own) == experiment.volume([one for one in own if one not in failed])


def test_the_volume_is_a_share_of_the_box():
    one = {"point": {"rank": 1.0}, "objectives": [0.05, 0.5, 0.5]}
    assert experiment.volume([one]) == pytest.approx(0.5**3)
    assert experiment.volume([one, {**one, "objectives": None}]) == pytest.approx(0.5**3)
    assert experiment.volume([]) == 0


def test_it_is_judged_by_the_lower_ends_and_goes_on_where_it_was(tmp_path: Path):
    context = Context(scratch=tmp_path, kept=tmp_path / "kept", threads=1, rounds=1, say=lambda _: None)
    first = experiment.compared(context, lambda _: Formula(), SIZES)
    # Ranks are nearly free here: without them the front is far behind.
    assert first.value["lower end, jointly over in turn"].value > 0
    assert first.value["candidates on the front with ranks split"].value > 0

    def refuse(_: int) -> Formula:
        raise AssertionError("made again")

    assert experiment.compared(context, refuse, SIZES) == first
    even = {name: [{"point": {"rank": 1.0}, "objectives": [0.05, 0.5, 0.5]}] for name in ("jointly", "in turn")}
    better = {**even, "by chance": [{"point": {"rank": 1.0}, "objectives": [0.01, 0.5, 0.5]}]}
    judged = experiment.outcome(experiment.Sizes(seeds=(0, 1)), [better, better])
    assert not met(judged.goal, judged.value)
    assert judged.value["lower end, jointly over in turn"].value == 0
    assert judged.value["lower end, jointly over by chance"].value < 0
