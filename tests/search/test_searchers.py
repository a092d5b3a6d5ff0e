"""Searchers: pure, exhaustive, and better than chance at the same number of evaluations."""

from __future__ import annotations

import functools
from statistics import mean

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.errors import UsageError
from lissom.functional.front import hypervolume
from lissom.goal import Goal
from lissom.search import Point, Trial, searchers_of
from lissom.search.fitness import missed, objectives, reference, score, values
from lissom.search.history import view
from lissom.search.searchers import NAMES

GOAL = Goal(metric_drop=0.02, latency_ratio=3.5, size_ratio=6.0)
OWN = [name for name in NAMES if name != "auto"]


def trial(number: int, point, by: str) -> Trial:
    recipe = synthetic.SPACE.recipe(point)
    try:
        outcome = {"state": "done", "measurement": synthetic.evaluate(recipe)}
    except Exception as wrong:  # noqa: BLE001
        outcome = {"state": "failed", "failure": str(wrong)}
    return Trial(number=number, point=point, recipe=recipe.id, by=by, **outcome)


def walked(name: str, count: int, seed: int = 0, goal: Goal = GOAL) -> list[Trial]:
    """Trials of one searcher by itself."""
    (searcher,) = searchers_of(name)
    trials: list[Trial] = []
    while len(trials) < count:
        point = searcher.propose(view(synthetic.SPACE, goal, synthetic.ORIGINAL, trials, seed=seed))
        if point is None:
            break
        trials.append(trial(len(trials), point, name))
    return trials


@pytest.mark.parametrize("name", OWN)
def test_proposals_are_new_and_depend_on_the_history_alone(name):
    trials = walked(name, 12)
    assert len({t.point for t in trials}) == len(trials) >= 8
    (searcher,) = searchers_of(name)
    for known in (0, 5, 10):
        again = searcher.propose(view(synthetic.SPACE, GOAL, synthetic.ORIGINAL, trials[:known]))
        assert known >= len(trials) or again == trials[known].point


@pytest.mark.parametrize("name", OWN)
@settings(max_examples=5, deadline=None)
@given(count=st.integers(0, 6), pending=st.integers(0, 3))
def test_what_is_being_tried_is_not_proposed(name, count, pending):
    trials = walked("random", count, seed=3)
    held = [t.point for t in walked("random", count + pending, seed=3)[count:]]
    (searcher,) = searchers_of(name)
    seen = view(synthetic.SPACE, GOAL, synthetic.ORIGINAL, trials, pending=held)
    point = searcher.propose(seen)
    assert point is None or seen.new(point)


def test_the_control_sees_every_point_once():
    trials = walked("random", 10**6)
    assert len(trials) == synthetic.SPACE.size
    assert {t.point for t in trials} == set(synthetic.SPACE.points())


@functools.cache
def by_chance(seed: int) -> list[Trial]:
    return walked("random", 40, seed)


def volume(trials: list[Trial]) -> float:
    names = objectives(GOAL, synthetic.ORIGINAL)
    done = [values(names, synthetic.ORIGINAL, t.measurement) for t in trials if t.measurement]
    return hypervolume(done, reference(names))


@pytest.mark.parametrize("name", ["hypervolume", "nsga2", "tpe"])
def test_larger_fronts_than_chance_at_equal_evaluations(name):
    seeds = range(2)
    chance = mean(volume(by_chance(seed)) for seed in seeds)
    assert mean(volume(walked(name, 40, seed)) for seed in seeds) > chance


@pytest.mark.parametrize("name", ["knapsack", "netadapt", "anneal"])
def test_nearer_to_the_goal_than_chance_at_equal_evaluations(name):
    def nearest(trials: list[Trial]) -> float:
        return min(score(GOAL, synthetic.ORIGINAL, t.measurement) for t in trials if t.measurement)

    seeds = range(4)
    own = [walked(name, 20, seed) for seed in seeds]
    chance = mean(nearest(by_chance(seed)[: len(trials)]) for seed, trials in zip(seeds, own, strict=True))
    assert mean(nearest(trials) for trials in own) < chance


def test_first_guesses_find_the_best_of_the_space():
    trials = walked("knapsack", 100)
    assert len(trials) < 20
    reachable = [trial(0, p, "") for p in synthetic.SPACE.points()]
    least = min(missed(GOAL, synthetic.ORIGINAL, t.measurement) for t in reachable if t.measurement)
    found = min(missed(GOAL, synthetic.ORIGINAL, t.measurement) for t in trials if t.measurement)
    assert found <= least + 0.1


def test_the_second_candidate_is_what_the_prior_calls_best():
    first, second = walked("knapsack", 2)
    assert first.point == Point()
    assert second.measurement is not None
    assert second.point.precision == "int8"
    costs = missed(GOAL, synthetic.ORIGINAL, second.measurement, costs_only=True)
    assert costs < 0.2 * missed(GOAL, synthetic.ORIGINAL, first.measurement, costs_only=True)


def test_where_the_prior_fears_for_the_drop_one_candidate_keeps_the_costs():
    wanted = Goal(metric_drop=0.02, size_ratio=16.0, macs_ratio=4.0)
    _, careful, bold = walked("knapsack", 3, goal=wanted)
    costs = [missed(wanted, synthetic.ORIGINAL, t.measurement, costs_only=True) for t in (careful, bold)]
    assert costs[0] > costs[1] == 0.0
    assert careful.measurement.metric > bold.measurement.metric


def test_what_could_not_be_made_is_tried_value_by_value():
    both = Point(precision="int8", depth=0.25, rank=2.0)
    trials = [trial(0, Point(), "knapsack"), trial(1, both, "knapsack")]
    assert trials[1].measurement is None
    (searcher,) = searchers_of("knapsack")
    for number, alone in enumerate(({"precision": "int8"}, {"depth": 0.25}, {"rank": 2.0}), start=2):
        point = searcher.propose(view(synthetic.SPACE, GOAL, synthetic.ORIGINAL, trials))
        assert point == Point().with_(**alone)
        trials.append(trial(number, point, "knapsack"))
    point = searcher.propose(view(synthetic.SPACE, GOAL, synthetic.ORIGINAL, trials))
    assert point is not None
    assert point.with_(precision="float32") != both.with_(precision="float32")


def test_a_value_that_failed_alone_is_not_guessed_again():
    trials = [trial(0, Point(), "knapsack")]
    failed = Trial(number=1, point=Point(precision="int8"), recipe="x", by="knapsack", state="failed", failure="no")
    for name in ("knapsack", "hypervolume"):
        (searcher,) = searchers_of(name)
        seen = view(synthetic.SPACE, GOAL, synthetic.ORIGINAL, [*trials, failed])
        point = searcher.propose(seen)
        assert point is not None
        assert point.precision != "int8"


def test_netadapt_ends_where_the_costs_are_kept():
    trials = walked("netadapt", 200)
    assert len(trials) < 60
    kept = [t for t in trials if t.measurement and not missed(GOAL, synthetic.ORIGINAL, t.measurement, costs_only=True)]
    assert kept
    assert min(t.number for t in kept) > 3, "the goal is not reached by a single step"


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match=r"Unknown search 'nsga'\. Did you mean 'nsga2'"):
        searchers_of("nsga")
