"""Where a search starts for a goal: the planner's own first guess, told before anything is made."""

from __future__ import annotations

import pytest
import synthetic
from synthetic import ORIGINAL, SPACE

from lissom.goal import Goal
from lissom.search import Point, foresee_wishes, start
from lissom.search.fitness import allowed_drop
from lissom.search.starting import RECOVERABLE, aim_of

GOALS = (
    Goal(metric_drop=0.02, latency_ratio=3.0),
    Goal(metric_drop=0.01, size_ratio=6.0, macs_ratio=2.0),
    Goal(metric_drop=0.02),
    Goal(size_ratio=30.0),
)


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_it_is_what_the_planner_tries_after_the_original(goal):
    found = synthetic.search("sqlite:///:memory:", name="auto", goal=goal)
    assert found.trials[0].point == Point()
    assert start(SPACE, goal, ORIGINAL) == found.trials[1].point


def test_what_cannot_be_made_is_passed_over_for_the_next_best():
    goal = GOALS[0]
    first = start(SPACE, goal, ORIGINAL)
    second = start(SPACE, goal, ORIGINAL, failed=(first,))
    assert second not in (None, first, Point())
    every = tuple(SPACE.points())
    assert start(SPACE, goal, ORIGINAL, failed=every[1:]) is None


def test_a_value_that_fails_by_itself_is_in_no_other_guess():
    goal = Goal(metric_drop=0.02, size_ratio=6.0)
    assert start(SPACE, goal, ORIGINAL).precision == "int8"
    assert start(SPACE, goal, ORIGINAL, failed=(Point(precision="int8"),)).precision != "int8"


def test_more_may_be_lost_where_training_follows():
    goal = Goal(metric_drop=0.01)
    untrained = SPACE.model_copy(update={"epochs": (0,)})
    assert aim_of(untrained, goal, ORIGINAL) == goal
    wider = allowed_drop(aim_of(SPACE, goal, ORIGINAL), ORIGINAL)
    assert wider == pytest.approx(0.01 + RECOVERABLE * ORIGINAL.metric)


def test_wishes_are_foretold_by_what_is_known_of_each():
    goal = Goal(metric_drop=0.02, latency_ratio=3.0, macs_ratio=2.0, soft=("latency",), class_drop=0.1)
    original = ORIGINAL.model_copy(update={"classes": {0: 0.9, 1: 0.95}})
    point = Point(prune=2.0, precision="int8")
    seen = {
        one.wish.split()[0]: one for one in foresee_wishes(SPACE, goal, original, point, {"MACs": 0.4, "size": 0.1})
    }
    assert (seen["MACs"].figure, seen["MACs"].basis, seen["MACs"].kept) == (0.4, "counted", True)
    # Half the products, and int8: 2^-0.7 of the latency, times 0.6.
    assert seen["latency"].figure == pytest.approx(2**-0.7 * 0.6)
    assert (seen["latency"].basis, seen["latency"].kept, seen["latency"].hard) == ("prior", False, False)
    # A quarter of 0.3, and 0.004 for the rounding.
    assert seen["metric"].figure == pytest.approx(0.3 / 4 + 0.004)
    assert seen["metric"].kept is False
    assert (seen["drop"].figure, seen["drop"].kept, seen["drop"].basis) == (None, None, "none")
