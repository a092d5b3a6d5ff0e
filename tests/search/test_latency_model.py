"""Latency foretold from a table of layers, on a network whose law is known."""

from __future__ import annotations

import time

import layered
import numpy as np
import pytest
from layered import ORIGINAL, SPACE, STEP

from lissom.errors import ExportError
from lissom.goal import Goal
from lissom.search import Limits, Point, Search, Trial, opened, searchers_of
from lissom.search.costs import fit_costs
from lissom.search.history import Probe, view
from lissom.search.latency import MOST, accuracy, careful, fit_layers, foretell, left_out, samples_of
from lissom.search.layers import Points, fill
from lissom.search.probing import probed
from lissom.search.searchers.knapsack import solve

POINTS = [p for p in SPACE.points() if p != Point()]
NOISE = 0.02


def drawn(count: int, seed: int) -> list[Point]:
    return [POINTS[i] for i in np.random.default_rng(seed).choice(len(POINTS), count, replace=False)]


def trials(points: list[Point], **how: float) -> list[Trial]:
    return [
        Trial(number=i, point=p, recipe=str(i), by="knapsack", state="done", measurement=layered.measured(p, **how))
        for i, p in enumerate(points)
    ]


def probes(**how: float) -> tuple[Probe, ...]:
    return tuple(Probe(point=p, timed=layered.timed(p, **how)) for p in probed(SPACE))


def samples(points: list[Point], **how: float):
    return samples_of(ORIGINAL, trials(points, **how), probes(**how))


def truth(points: list[Point]) -> np.ndarray:
    return np.array([layered.whole(p) for p in points]) / ORIGINAL.latency_ms


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.fixture(scope="module")
def split() -> tuple[list[Point], list[Point]]:
    points = drawn(62, seed=3)
    return points[:12], points[12:]


@pytest.fixture(scope="module")
def known(split):
    return samples(split[0], noise=NOISE)


def test_held_out_candidates_are_foretold_and_the_error_says_how_well(split, known):
    _, held_out = split
    found = fit_layers(known, ORIGINAL.latency_ms, STEP).predict(held_out)
    off = np.abs(found.shares / truth(held_out) - 1.0)
    macs = np.array([sum(one.macs for one in layered.layers(p)) for p in held_out]) / ORIGINAL.macs
    assert off.mean() < 0.06
    assert spearman(found.shares, truth(held_out)) > 0.98
    assert np.abs(macs / truth(held_out) - 1.0).mean() > 3 * off.mean(), "what the control is off by"
    told = accuracy(ORIGINAL, trials(split[0], noise=NOISE), probes(noise=NOISE), STEP)
    assert told.error == pytest.approx(off.mean(), rel=0.6)
    assert (told.layers, told.candidates) == (16, len(known) - 1)
    within = np.abs(np.log(found.shares / truth(held_out))) < 2 * np.log1p(found.unsure)
    assert within.mean() > 0.85, "two standard deviations hold most of them"


def test_the_table_alone_is_exact_where_a_layer_was_measured(known):
    exact = samples([])
    table = fill(exact, ORIGINAL.latency_ms, STEP, SPACE.precision)
    points = [Point(), Point(prune=2.5), Point(prune=6.0), Point(depth=0.5), Point(precision="int8", prune=2.5)]
    wanted = [sum(one.ms for one in layered.layers(p)) for p in points]
    assert (table.times(points) - table.rest_ms) / table.scale == pytest.approx(wanted, rel=0.02)


def test_more_pruned_is_never_slower_and_a_channel_less_saves_nothing_between_two_multiples(known):
    table = fill(known, ORIGINAL.latency_ms, STEP, SPACE.precision)
    for precision in SPACE.precision:
        falling = table.times([Point(prune=p, precision=precision) for p in np.linspace(1.0, 8.0, 60)])
        assert (np.diff(falling) <= 1e-9).all()
    row = next(r for r in fill(samples([]), ORIGINAL.latency_ms, STEP, ["float32"]).rows if r.name == "blocks.0.conv0")
    taken = row.times(Points.of([Point(prune=p) for p in np.linspace(1.0, 2.0, 200)]))
    assert len(np.unique(taken.round(9))) <= 2 * 32 // STEP, "two sides, each with so many multiples"


def test_a_slow_moment_of_the_machine_changes_nothing(split):
    plain = fit_layers(samples([]), ORIGINAL.latency_ms, STEP).predict(split[1]).shares
    slow = fit_layers(samples([], clock=3.0), ORIGINAL.latency_ms, STEP).predict(split[1]).shares
    assert slow == pytest.approx(plain)


def test_a_profiler_that_sees_less_than_all_is_scaled(split):
    def half(one):
        return one._replace(layers=tuple(layer.model_copy(update={"ms": layer.ms / 2}) for layer in one.layers))

    whole, seen = samples([]), [half(one) for one in samples([])]
    tables = [fill(known, ORIGINAL.latency_ms, STEP, SPACE.precision) for known in (whole, seen)]
    assert tables[1].scale == pytest.approx(2 * tables[0].scale)
    assert tables[1].times(split[1]) == pytest.approx(tables[0].times(split[1]))


def test_leaving_out_leaves_everything_of_that_point_out(split, known):
    off = left_out(known, ORIGINAL.latency_ms, STEP)
    twice = [*known, *(s for s in known if s.point in split[0])]
    again = left_out(twice, ORIGINAL.latency_ms, STEP)
    assert len(again) == len(off) == len({s.point for s in known}) - 1
    assert len(left_out(samples(drawn(40, seed=9)), ORIGINAL.latency_ms, STEP)) == MOST
    assert np.mean(np.abs(again)) > 0.7 * np.mean(np.abs(off)), "a candidate is not foretold from its twin"
    point = split[0][0]
    rest = [s for s in known if s.point != point]
    share = next(s.share for s in known if s.point == point)
    alone = fit_layers(rest, ORIGINAL.latency_ms, STEP).predict([point]).shares[0]
    assert alone / share - 1.0 in [pytest.approx(one) for one in off]


def test_what_was_measured_whole_but_not_taken_apart_corrects_too(split):
    bare = [
        t.model_copy(update={"measurement": t.measurement.model_copy(update={"layers": ()})}) for t in trials(split[0])
    ]
    known = samples_of(ORIGINAL, bare, probes())
    more, less = (fit_layers(k, ORIGINAL.latency_ms, STEP) for k in (known, samples_of(ORIGINAL, [], probes())))
    off = [np.abs(m.predict(split[0]).shares / truth(split[0]) - 1.0).mean() for m in (more, less)]
    assert off[0] < 0.7 * off[1]


def test_unsure_where_nothing_was_measured_and_a_bound_keeps_the_margin(split):
    def at(points, goal=Goal(metric_drop=0.5), known=()):  # noqa: B008  frozen
        return view(SPACE, goal, ORIGINAL, trials([Point(), *known]), probes=probes(), step=STEP), points

    near, far = (foretell(*at([p])) for p in (Point(prune=2.5), Point(prune=6.0, rank=3.0, depth=0.5)))
    assert near.unsure[0] < 0.5 * far.unsure[0]
    assert (careful(far) > far.shares).all()
    seen, _ = at([], Goal(metric_drop=0.5, latency_ratio=3.0), split[0])
    chosen = solve(seen)
    assert careful(foretell(seen, [chosen]))[0] <= 1 / 3 < foretell(seen, [Point(prune=1.25)]).shares[0]


def test_without_times_of_layers_the_whole_network_is_foretold():
    bare = ORIGINAL.model_copy(update={"layers": ()})
    tried = trials(drawn(8, seed=1))
    seen = view(SPACE, Goal(), bare, tried, probes=probes())
    model = fit_costs("latency", [t.point for t in tried], [1 / t.measurement.latency_ratio for t in tried])
    assert foretell(seen, POINTS).shares == pytest.approx(model.predict(POINTS))
    told = accuracy(bare, tried, probes(), STEP)
    assert (told.error, told.layers, told.candidates) == (pytest.approx(model.error), 0, 8)
    assert accuracy(ORIGINAL, [], [], STEP).error is None


class Counted:
    """A profiler that fails for one rank, in a search of the synthetic network."""

    def __init__(self) -> None:
        self.made: list[Point] = []
        self.now = 0.0

    def probe(self, recipe):
        self.now += 1.0
        point = layered.point_of(recipe)
        self.made.append(point)
        if point.rank == 3.0:
            raise ExportError("no kernel for that rank")
        return layered.timed(point)

    def evaluate(self, recipe):
        self.now += 1.0
        return layered.measured(layered.point_of(recipe))

    def search(self, storage: str, goal: Goal, *, name: str = "knapsack", **changed) -> tuple[object, float]:
        with opened(storage, "net", {"model": "m"}) as study:
            search = Search(
                self.evaluate, SPACE, study, goal, ORIGINAL, searchers_of(name), probe=self.probe, step=STEP,
                clock=lambda: self.now, **{"limits": Limits(trials=12), **changed},
            )  # fmt: skip
            return search.run()


def test_the_table_is_measured_once_kept_and_serves_the_next_goal(tmp_path):
    storage = f"sqlite:///{tmp_path / 'kept.db'}"
    first = Counted()
    found = first.search(storage, Goal(metric_drop=0.5, latency_ratio=1.9), limits=Limits(trials=40))
    assert first.made == probed(SPACE)[:10], "a quarter of the trials, at most"
    assert found.chosen.measurement.latency_ratio >= 1.9
    assert len(found.trials) <= 3, "the first guess after the original is from the table"
    again = Counted()
    goal = Goal(metric_drop=0.5, latency_ratio=2.5)
    more = again.search(storage, goal, limits=Limits(trials=60))
    assert again.made == probed(SPACE)[10:15], "what is kept is not made again"
    assert {p.point for p in more.probes if p.timed is None} == {Point(rank=3.0)}
    assert all(p.failure == "no kernel for that rank" for p in more.probes if p.timed is None)
    assert more.latency.error < 0.1


def test_searches_that_do_not_go_by_latency_measure_no_table():
    for name, goal in [("random", Goal(latency_ratio=2.0)), ("knapsack", Goal(macs_ratio=2.0))]:
        one = Counted()
        one.search("sqlite:///:memory:", goal, name=name, limits=Limits(trials=4))
        assert not one.made


def test_with_little_time_the_table_is_small():
    one = Counted()
    one.search("sqlite:///:memory:", Goal(latency_ratio=1.1), limits=Limits(seconds=30.0))
    assert one.made == probed(SPACE)[:3], "a tenth of the time"
    short = Counted()
    short.search("sqlite:///:memory:", Goal(latency_ratio=1.1), limits=Limits(seconds=0.0))
    assert not short.made, "none that would not end in it"


def test_a_new_goal_is_solved_in_less_than_a_second():
    seen = view(
        SPACE,
        Goal(metric_drop=0.03, latency_ratio=2.7),
        ORIGINAL,
        trials(drawn(40, seed=5)),
        probes=probes(),
        step=STEP,
    )

    def seconds() -> float:
        begun = time.process_time()
        assert solve(seen) is not None
        return time.process_time() - begun

    assert min(seconds() for _ in range(3)) < 1.0  # the first one may import, and others use the machine
