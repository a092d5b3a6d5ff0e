"""The planner: within its time, never worse than it was, and able to say why not."""

from __future__ import annotations

import pytest
import synthetic

from lissom.errors import ExportError, UsageError, VerificationError
from lissom.goal import Goal
from lissom.search import Limits, Point, Space, workers_of
from lissom.search.fitness import bounds, missed


@pytest.fixture
def storage() -> str:
    return "sqlite:///:memory:"


class Clock:
    """Time that passes only while candidates are evaluated: a second each, ten more for every epoch."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def evaluate(self, recipe):
        found = synthetic.evaluate(recipe)
        epochs = sum(s["Finetune"]["epochs"] for s in recipe.to_data() if "Finetune" in s)
        self.now += 1.0 + 10.0 * epochs
        return found.model_copy(update={"epoch_seconds": 10.0 if epochs else None})


@pytest.mark.parametrize("name", ["auto", "anneal"])
def test_a_reachable_goal_is_reached_and_the_search_stops_there(storage, name):
    goal = Goal(metric_drop=0.02, latency_ratio=3.0, size_ratio=6.0)
    found = synthetic.search(storage, name=name, goal=goal, limits=Limits(trials=60))
    assert found.chosen is not None
    assert found.chosen.measurement is not None
    assert found.explanation.met
    assert missed(goal, synthetic.ORIGINAL, found.chosen.measurement) == 0.0
    assert found.chosen is found.trials[-1], "nothing is tried after it"
    assert found.chosen.point.epochs > 0, "no candidate keeps the drop without training"


def test_an_unreachable_goal_is_explained(storage):
    goal = Goal(metric_drop=0.01, latency_ratio=9.5)
    found = synthetic.search(storage, name="auto", goal=goal, limits=Limits(trials=20))
    text = " ".join(found.explanation.sentences)
    assert not found.explanation.met
    assert found.explanation.binding == "latency ratio >= 9.5x"
    assert "What binds is latency ratio >= 9.5x: without it" in text
    assert "Nearest is candidate" in text
    assert "More time would try more" in text


def test_a_wish_that_only_data_could_tell_is_explained(storage):
    found = synthetic.search(storage, name="knapsack", goal=Goal(metric_drop=0.0005, size_ratio=50.0))
    assert any("validation examples tell drops of about 0.0161 apart" in s for s in found.explanation.sentences)


@pytest.mark.parametrize("seconds", [10.0, 150.0])
def test_nothing_is_begun_that_would_not_end_in_time(storage, seconds):
    clock = Clock()
    found = synthetic.search(
        storage, name="auto", goal=Goal(latency_ratio=9.5), call=clock.evaluate, clock=clock,
        limits=Limits(seconds=seconds),
    )  # fmt: skip
    # Of the first of its kind nobody knows how long it takes: the first epoch may be too much.
    assert clock.now <= seconds + 11.0
    assert len(found.trials) >= 5
    assert (max(t.point.epochs for t in found.trials) > 1) is (seconds == 150.0)


def test_more_time_never_ends_with_less(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    goal, misses = Goal(metric_drop=0.01, latency_ratio=5.0, size_ratio=8.0), []
    for trials in (1, 8, 24):
        found = synthetic.search(storage, name="auto", goal=goal, limits=Limits(trials=trials))
        assert found.chosen is not None
        assert found.chosen.measurement is not None
        misses.append(missed(goal, synthetic.ORIGINAL, found.chosen.measurement))
    assert misses == sorted(misses, reverse=True)
    assert misses[-1] < misses[0]


def test_the_model_as_it_is_comes_first_and_wins_where_nothing_else_can_be_made(storage):
    def only_folding(recipe):
        if recipe.title != "Fold":
            raise ExportError("not here")
        return synthetic.evaluate(recipe)

    found = synthetic.search(storage, name="netadapt", goal=Goal(size_ratio=2.0), call=only_folding)
    assert found.chosen is not None
    assert found.chosen.point == Point()
    assert {t.failure for t in found.trials if t.state == "failed"} == {"not here"}
    assert any("could not be made" in s for s in found.explanation.sentences)


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_without_any_time_there_is_still_something_to_hand_back(storage, name):
    found = synthetic.search(storage, name=name, limits=Limits(seconds=0.0))
    assert [t.point for t in found.trials] == [Point()]
    assert found.chosen is found.trials[0]


def test_without_training_nothing_is_trained(storage):
    space, goal = Space(prune=(1.0, 2.0, 4.0)), Goal(metric_drop=0.06, size_ratio=3.0)
    found = synthetic.search(storage, name="auto", space=space, goal=goal, limits=Limits(trials=30))
    assert {t.point.epochs for t in found.trials} == {0}
    assert len(found.trials) == space.size
    assert any("Task(train=..., loss=...) would let candidates recover" in s for s in found.explanation.sentences)


@pytest.mark.parametrize("wrong", ["many", "-1", "0", ":3"])
def test_workers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="workers"):
        workers_of(wrong)


def test_an_unknown_backend_is_refused(storage):
    with pytest.raises(UsageError, match="joblib has no backend 'nowhere'"):
        synthetic.search(storage, workers=workers_of("nowhere:2"))


@pytest.mark.parametrize("trained", [True, False])
def test_a_drop_alone_is_no_reason_to_stop_at_the_original(storage, trained):
    space = synthetic.SPACE if trained else synthetic.SPACE.model_copy(update={"epochs": (0,)})
    found = synthetic.search(storage, name="auto", space=space, goal=Goal(metric_drop=0.02), limits=Limits(trials=40))
    assert found.chosen is not None
    assert found.chosen.measurement is not None
    assert found.chosen.measurement.latency_ratio > 1.5
    assert synthetic.ORIGINAL.metric - found.chosen.measurement.metric <= 0.02
    assert any(t.point.epochs and t.point.prune > 1.0 for t in found.trials) is trained


def test_what_must_never_break_is_not_a_candidate_that_failed(storage):
    def broken(recipe):
        raise VerificationError("the group 'conv1' differs")

    with pytest.raises(VerificationError, match="conv1"):
        synthetic.search(storage, name="random", call=broken)


def test_of_two_wishes_for_one_cost_the_tighter_counts():
    goal = Goal(latency_ratio=2.0, latency_ms=2.5)
    assert bounds(goal, synthetic.ORIGINAL)["latency"] == pytest.approx(0.25)
    assert bounds(Goal(latency_ratio=8.0, latency_ms=2.5), synthetic.ORIGINAL)["latency"] == pytest.approx(0.125)
