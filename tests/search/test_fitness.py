"""Bounds on quality beside the drop of the task's own metric, as the search sees them."""

from __future__ import annotations

import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import GoalError
from lissom.goal import Goal
from lissom.search import Limits, Point, Trial, explaining
from lissom.search.fitness import arrived, best, bounds, drop, loosened, loss, missed, objectives, score, wishes

ORIGINAL = synthetic.ORIGINAL.model_copy(update={"metrics": {"f1": 0.8}})
NAMED = Goal(metric_drop=0.01, metric_drops={"f1": 0.02}, size_ratio=2)


def one(metric: float, f1: float, size: int = 1_000_000, ratio: float = 1.0):
    return ORIGINAL.model_copy(
        update={"metric": metric, "metrics": {"f1": f1}, "size_bytes": size, "latency_ratio": ratio}
    )


CLASSED = ORIGINAL.model_copy(update={"classes": {0: 0.9, 1: 0.8, 2: 0.95}})


def classed(*shares: float, **changed):
    return CLASSED.model_copy(update={"classes": dict(enumerate(shares)), **changed})


def test_bounds_on_single_classes_are_wishes_of_quality():
    goal = Goal(class_floor=0.7, class_drop=0.1, size_ratio=2)
    _, floor, drop_of_class, _ = wishes(goal, CLASSED)
    assert (floor.text, drop_of_class.text) == ("worst class >= 0.7", "drop of every class <= 0.1")
    kept, lost = classed(0.85, 0.72, 0.9), classed(0.85, 0.8, 0.6)
    assert missed(goal, CLASSED, kept, costs_only=False) == pytest.approx(missed(goal, CLASSED, kept, costs_only=True))
    assert floor.reached(CLASSED, lost) == "0.6000 in class 2"
    assert drop_of_class.reached(CLASSED, lost) == "0.3500 in class 2"
    assert floor.miss(CLASSED, lost) == pytest.approx((0.8 - 0.6 - 0.1) / 0.1)
    assert drop_of_class.miss(CLASSED, lost) == pytest.approx(0.25 / 0.1)
    assert bounds(goal, CLASSED) == {"drop": 0.01, "size": 0.5}
    wider = loosened(goal, CLASSED, 0.15)
    assert (wider.class_floor, wider.class_drop) == (pytest.approx(0.55), pytest.approx(0.25))


def test_a_floor_above_the_original_is_kept_by_what_got_better_alone():
    goal = Goal(class_floor=0.9)
    (_, floor) = wishes(goal, CLASSED)
    assert floor.miss(CLASSED, CLASSED) > 0
    assert floor.miss(CLASSED, classed(0.9, 0.9, 0.9)) == 0
    assert loss(goal, CLASSED, CLASSED) > 0.01
    assert loss(goal, CLASSED, classed(0.9, 0.9, 0.9, metric=0.93)) <= 0.01 + 1e-9


def trial(number: int, measurement) -> Trial:
    return Trial(
        number=number,
        point=Point(prune=1.0 + number),
        recipe=str(number),
        by="x",
        state="done",
        measurement=measurement,
    )


def test_a_bound_on_a_further_metric_is_a_wish_of_quality():
    own, f1, size = wishes(NAMED, ORIGINAL)
    assert (own.text, f1.text, size.text) == ("metric drop <= 0.01", "f1 drop <= 0.02", "size ratio >= 2x")
    assert (own.quality, f1.quality, size.quality) == (True, True, False)
    lost = one(0.925, 0.75)
    assert f1.figure(ORIGINAL, lost) == pytest.approx(0.05)
    assert f1.miss(ORIGINAL, lost) == pytest.approx(0.03 / 0.02)
    assert missed(NAMED, ORIGINAL, lost) == pytest.approx(1.5)
    assert missed(NAMED, ORIGINAL, lost, costs_only=True) == 0.0
    assert bounds(NAMED, ORIGINAL) == {"drop": 0.01, "size": 0.5}
    assert objectives(NAMED, ORIGINAL) == ("drop", "size")
    (_, share) = wishes(Goal(metric_drop_shares={"f1": 0.1}), ORIGINAL)
    assert share.bound == pytest.approx(0.08)


@given(own=st.floats(-0.05, 0.3), f1=st.floats(-0.05, 0.3))
def test_the_loss_is_within_the_allowed_exactly_where_every_bound_on_quality_holds(own, f1):
    candidate = one(0.93 - own, 0.8 - f1)
    found = loss(NAMED, ORIGINAL, candidate)
    assert found >= drop(ORIGINAL, candidate)
    kept = all(w.figure(ORIGINAL, candidate) <= w.bound for w in wishes(NAMED, ORIGINAL) if w.quality)
    assert (found <= 0.01) == kept or found == pytest.approx(0.01)
    without = Goal(metric_drop=0.01)
    assert loss(without, ORIGINAL, candidate) == drop(ORIGINAL, candidate)


def test_loosened_every_bound_on_quality_is_wider_by_a_share_of_its_metric():
    wider = loosened(Goal(metric_drop_share=0.1, metric_drops={"f1": 0.02}, size_ratio=2), ORIGINAL, 0.5)
    assert wider.metric_drop == pytest.approx(0.093 + 0.465)
    assert wider.metric_drops == pytest.approx({"f1": 0.42})
    assert (wider.metric_drop_share, wider.metric_drop_shares, wider.size_ratio) == (None, None, 2)


def test_soft_wishes_order_what_keeps_the_others():
    goal = Goal(metric_drop=0.01, size_ratio=2, latency_ratio=3, soft=("latency",))
    small, faster, lossy = (
        trial(1, one(0.93, 0.8, 400_000, 1.5)),
        trial(2, one(0.925, 0.8, 1_900_000, 2.5)),
        trial(3, one(0.9, 0.8, 400_000, 4.0)),
    )
    assert best([small, faster, lossy], goal, ORIGINAL) is faster
    assert missed(goal, ORIGINAL, faster.measurement) == 0.0
    assert missed(goal, ORIGINAL, faster.measurement, soft=True) == pytest.approx(3 / 2.5 - 1)
    assert not arrived(goal, ORIGINAL, faster.measurement)
    assert arrived(goal, ORIGINAL, one(0.93, 0.8, 400_000, 3.0))
    assert score(goal, ORIGINAL, faster.measurement) < score(goal, ORIGINAL, lossy.measurement)
    found = explaining.explain([small, faster, lossy], goal, ORIGINAL, untried=7, longest=0, trained=0)
    assert found.met
    assert found.sentences[0].startswith("Candidate 2 keeps every wish that decides: metric drop <= 0.01 (0.0050)")
    assert found.sentences[1] == (
        "Soft wishes reached: 0 of 1: latency ratio >= 3x (2.50x, missed). More time would try 7 candidates more."
    )
    unmet = explaining.explain([lossy], goal, ORIGINAL, untried=0, longest=0, trained=0)
    assert unmet.binding == "metric drop <= 0.01"
    assert any(sentence.startswith("Soft wishes reached: 1 of 1") for sentence in unmet.sentences)


def test_energy_is_a_cost():
    base = ORIGINAL.model_copy(update={"energy_joules": 0.01, "energy_ratio": 1.0})
    half = base.model_copy(update={"energy_joules": 0.005, "energy_ratio": 2.0})
    for goal, bound in ((Goal(energy_ratio=4), 0.25), (Goal(energy_joules=0.0025), 0.25)):
        (_, wish) = wishes(goal, base)
        assert (wish.cost, wish.bound) == ("energy", pytest.approx(bound))
        assert wish.miss(base, half) == pytest.approx(1.0)
        assert objectives(goal, base) == ("drop", "energy")
    assert wishes(Goal(energy_ratio=4), base)[1].reached(base, half) == "2.00x"


def test_a_soft_drop_bounds_nothing():
    goal = Goal(metric_drop=0.01, size_ratio=2, soft=("drop",))
    lossy, large = trial(1, one(0.8, 0.8, 400_000)), trial(2, one(0.93, 0.8, 4_000_000))
    assert best([lossy, large], goal, ORIGINAL) is lossy
    assert best([lossy, large, trial(3, one(0.85, 0.8, 400_000))], goal, ORIGINAL).number == 3


def test_a_search_goes_on_for_its_soft_wishes(tmp_path):
    hard = Goal(metric_drop=0.03, size_ratio=3)
    soft = Goal(metric_drop=0.03, size_ratio=3, latency_ratio=2.5, soft=("latency",))
    found = {
        name: synthetic.search(f"sqlite:///{tmp_path / name}", name="netadapt", goal=goal, limits=Limits(trials=14))
        for name, goal in (("hard", hard), ("soft", soft))
    }
    assert found["hard"].explanation.met
    assert found["soft"].explanation.met
    assert len(found["soft"].trials) > len(found["hard"].trials)
    assert "latency" in found["soft"].objectives
    chosen = found["soft"].chosen
    kept = [t for t in found["soft"].trials if t.measurement and not missed(hard, synthetic.ORIGINAL, t.measurement)]
    assert chosen in kept
    assert chosen.measurement.latency_ratio == max(t.measurement.latency_ratio for t in kept)


def test_what_breaks_a_further_bound_is_not_chosen_and_is_what_binds():
    smaller, kept = trial(1, one(0.93, 0.7, 500_000, 4.0)), trial(2, one(0.925, 0.79, 1_900_000, 2.0))
    assert best([smaller, kept], NAMED, ORIGINAL) is kept
    assert best([smaller, kept], Goal(metric_drop=0.01, size_ratio=2), ORIGINAL) is smaller
    found = explaining.explain([smaller], NAMED, ORIGINAL, untried=0, longest=10, trained=0)
    assert (found.met, found.binding) == (False, "f1 drop <= 0.02")
    assert "and the best of those reaches 0.1000" in found.sentences[0]
    assert any("train longer" in sentence for sentence in found.sentences), "training may bring it back"


def test_a_metric_that_was_not_measured_is_named():
    with pytest.raises(GoalError, match=r"bounds the drop of 'f2'\. Did you mean 'f1'"):
        wishes(Goal(metric_drops={"f2": 0.01}), ORIGINAL)
