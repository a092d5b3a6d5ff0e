"""A search that is continued on another machine, or under another clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from lissom.recipe import Recipe
from lissom.search import Limits, Measurement, Point, opened

SPACE = synthetic.SPACE.model_copy(update={"epochs": (0,), "depth": (0.0,)})
IDENTITY = {"model": "m", "space": "s"}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


class Machine:
    """One on which int8 is so many times as fast as the law says; counts what it evaluates."""

    def __init__(self, name: str, gain: float) -> None:
        self.name, self.gain, self.seen = name, gain, list[str]()

    def __call__(self, recipe: Recipe) -> Measurement:
        self.seen.append(recipe.id)
        found = synthetic.evaluate(recipe)
        rounds = any("Quantize" in step and step["Quantize"].get("precision") != 16 for step in recipe.to_data())
        ratio = found.latency_ratio * (self.gain if rounds else 1.0)
        return found.model_copy(update={"latency_ratio": ratio, "machine": self.name})

    def search(self, storage: str, trials: int, **changed: object):
        return synthetic.search(
            storage, call=self, machine=self.name, space=SPACE, **{"limits": Limits(trials=trials), **changed}
        )


def test_what_another_machine_measured_is_measured_again_before_it_is_compared(storage, tmp_path):
    slow, fast = Machine("a", 0.5), Machine("b", 4.0)
    slow.search(storage, 6)
    found = fast.search(storage, 10)
    assert {t.machine for t in found.trials} == {t.measurement.machine for t in found.trials} == {"b"}
    assert set(slow.seen) <= set(fast.seen)
    assert len(set(fast.seen)) == len(fast.seen) == 10
    assert found.moved == {"a": (6, 0)}
    whole = Machine("b", 4.0).search(f"sqlite:///{tmp_path / 'whole.db'}", 10)
    assert synthetic.told(found) == synthetic.told(whole)
    assert synthetic.told(found) != synthetic.told(Machine("a", 0.5).search(f"sqlite:///{tmp_path / 'a.db'}", 10))


def test_back_on_the_first_machine_its_own_measurements_hold(storage):
    first = Machine("a", 0.5)
    first.search(storage, 4)
    Machine("b", 4.0).search(storage, 6)
    found = first.search(storage, 6)
    assert len(set(first.seen)) == len(first.seen) == 6
    assert found.moved == {"b": (6, 0)}


def test_without_time_for_all_those_that_were_ahead_are_measured_again_and_the_rest_does_not_count(storage):
    slow = Machine("a", 1.0)
    before = slow.search(storage, 8)
    ahead = {t.recipe for t in before.trials if t.number in before.front}
    assert 2 <= len(ahead) < 8
    now = 0.0

    class Taking(Machine):
        def __call__(self, recipe: Recipe) -> Measurement:
            nonlocal now
            now += 1.0
            return super().__call__(recipe)

    fast = Taking("b", 1.0)
    # None of these has time for a proposal of its own: the budget ends with what was ahead.
    found = fast.search(storage, 8, limits=Limits(seconds=len(ahead) + 0.5), clock=lambda: now)
    assert ahead <= set(fast.seen)
    assert len(fast.seen) <= len(ahead) + 1, "and the original, which comes first"
    ((again, left),) = found.moved.values()
    assert again + left == 8
    assert {t.recipe for t in found.trials} == set(fast.seen)


def test_two_machines_on_one_storage_do_each_their_own(storage):
    with (
        opened(storage, "bars", IDENTITY, machine="a") as one,
        opened(storage, "bars", IDENTITY, machine="b") as other,
    ):
        mine = one.claim(Point(), "r1", "random")
        assert mine is not None
        yours = other.claim(Point(), "r1", "random")
        assert yours is not None
        assert one.claim(Point(), "r1", "random") is None
        one.finish(mine, synthetic.ORIGINAL, 1.0)
        assert [t.state for t in one.trials()] == ["done"]
        assert [t.state for t in other.trials()] == ["running"]
        assert other.elsewhere() == (), "it is under way here"
        other.release(yours)
        assert [t.machine for t in other.elsewhere()] == ["a"]


def test_a_clock_that_ran_backwards_neither_gives_nor_takes_time(storage):
    day = 86400.0
    with opened(storage, "bars", IDENTITY, place="run", now=lambda: 100.0 * day) as study:
        for name in ("r1", "r2"):
            trial = study.claim(Point(), name, "random")
            assert trial is not None
            study.finish(trial, synthetic.ORIGINAL, 7.0)
    with opened(storage, "bars", IDENTITY, place="run", now=lambda: 3.0 * day) as study:
        assert study.used() == 14.0
        trial = study.claim(Point(), "r3", "random")
        assert trial is not None
        study.finish(trial, synthetic.ORIGINAL, 1.0)
        assert study.used() == 15.0
        started = [t.started for t in study.trials()]
    assert started == [100.0 * day, 100.0 * day + 7.0, 100.0 * day + 14.0], "nothing began before what it follows"


def test_what_was_begun_ahead_of_the_clock_on_another_host_is_given_up(storage, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "far")
    with opened(storage, "bars", IDENTITY, now=lambda: 1e9) as lost:
        assert lost.claim(Point(), "r1", "random") is not None
        monkeypatch.setattr("socket.gethostname", lambda: "near")
        with opened(storage, "bars", IDENTITY, now=lambda: 1e9 + 3600.0) as study:
            assert study.claim(Point(), "r1", "random") is None, "it may still be at work"
        with opened(storage, "bars", IDENTITY, now=lambda: 1e9 - 2 * 86400.0) as study:
            assert study.claim(Point(), "r1", "random") is not None
