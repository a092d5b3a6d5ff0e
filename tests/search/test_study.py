"""Trials are done once, whoever is killed when, and however many processes share a storage."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic

from lissom.errors import RunFolderError, StorageError, UsageError
from lissom.search import Failure, Limits, Point, Workers, opened
from lissom.search.evaluating import evaluated

HERE = Path(__file__).parent
IDENTITY = {"model": "m", "space": "s"}
UNTRAINED = synthetic.SPACE.model_copy(update={"epochs": (0,)})


class Batches(Workers):
    """As many at a time as it says, without the seconds that processes take to start."""

    def __call__(self, evaluate, recipes):
        yield from [evaluated(evaluate, recipe) for recipe in recipes]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'search.db'}"


def begin(
    storage: str, log: Path, name: str, trials: int, seconds: float, party: int = 1, workers: str = "1"
) -> subprocess.Popen[str]:
    arguments = [storage, str(log), name, str(trials), str(seconds), str(party), workers]
    return subprocess.Popen(
        [sys.executable, str(HERE / "synthetic.py"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*processes: subprocess.Popen[str]) -> list[list[object]]:
    written = [process.communicate(timeout=300) for process in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), written
    # Ray says before, on standard output, that a worker died.
    return [json.loads(out.splitlines()[-1].rsplit(" ", 1)[0]) for out, _ in written]


def test_a_claim_is_had_by_one_and_what_is_finished_is_not_done_again(storage):
    with opened(storage, "bars", IDENTITY) as study, opened(storage, "bars", IDENTITY) as other:
        first = study.claim(Point(), "r1", "random")
        assert first is not None
        assert other.claim(Point(), "r1", "random") is None
        assert other.reset() == 0, "its owner lives"
        study.finish(first, synthetic.evaluate(synthetic.SPACE.recipe(Point())), 1.5)
        assert other.claim(Point(), "r1", "random") is None
        (trial,) = other.trials()
        assert (trial.state, trial.seconds, trial.by) == ("done", 1.5, "random")


def test_a_candidate_that_cannot_be_made_is_kept_with_its_reason(storage):
    with opened(storage, "bars", IDENTITY) as study:
        trial = study.claim(Point(), "r1", "random")
        assert trial is not None
        study.finish(trial, Failure(reason="no such layer"), 0.1)
    with opened(storage, "bars", IDENTITY) as study:
        assert study.claim(Point(), "r1", "random") is None
        assert [(t.state, t.failure) for t in study.trials()] == [("failed", "no such layer")]


@pytest.mark.parametrize("wrong", [RuntimeError("out of memory"), MemoryError()])
def test_a_failure_that_may_pass_is_tried_once_more_when_the_search_goes_on(wrong, storage, tmp_path):
    whole = synthetic.told(synthetic.search(f"sqlite:///{tmp_path / 'a.db'}", space=UNTRAINED, limits=Limits(trials=6)))
    tried: list[str] = []

    def short_of_memory(until: int):
        def call(recipe):
            tried.append(recipe.id)
            if tried.index(recipe.id) == 2 and tried.count(recipe.id) <= until:
                raise wrong
            return synthetic.evaluate(recipe)

        return call

    first = synthetic.search(storage, call=short_of_memory(1), space=UNTRAINED, limits=Limits(trials=3))
    assert [(t.state, t.passing) for t in first.trials] == [("done", False), ("done", False), ("failed", True)]
    found = synthetic.search(storage, call=short_of_memory(1), space=UNTRAINED, limits=Limits(trials=6))
    assert synthetic.told(found) == whole
    assert [t.state for t in found.trials].count("failed") == 0
    assert sorted(tried.count(one) for one in set(tried)) == [1, 1, 1, 1, 1, 2]


def test_a_failure_that_does_not_pass_is_tried_twice_and_no_more(storage):
    tries = 0

    def broken(recipe):
        nonlocal tries
        if recipe.to_data() == UNTRAINED.recipe(Point()).to_data():
            return synthetic.evaluate(recipe)
        tries += 1
        raise RuntimeError("shape mismatch")

    ends = [synthetic.search(storage, call=broken, space=UNTRAINED, limits=Limits(trials=2)) for _ in range(3)]
    assert [len(found.trials) for found in ends] == [2, 2, 2]
    assert tries == 2


def test_a_failure_of_a_process_that_goes_on_is_not_tried_by_another(storage):
    with opened(storage, "bars", IDENTITY) as study:
        trial = study.claim(Point(), "r1", "random")
        assert trial is not None
        study.finish(trial, Failure(reason="out of memory", passing=True), 0.1)
        with opened(storage, "bars", IDENTITY) as other:
            assert other.claim(Point(), "r1", "random") is None
    with opened(storage, "bars", IDENTITY) as later:
        assert later.claim(Point(), "r1", "random") is not None


def test_what_is_given_up_is_done_by_the_next_one(storage):
    with opened(storage, "bars", IDENTITY) as study:
        trial = study.claim(Point(), "r1", "random")
        assert trial is not None
        study.release(trial)
        assert study.trials() == ()
        assert study.claim(Point(), "r1", "random") is not None


def test_a_result_that_was_written_before_the_kill_counts(storage, monkeypatch):
    with opened(storage, "bars", IDENTITY) as study:
        trial = study.claim(Point(), "r1", "random")
        assert trial is not None
        monkeypatch.setattr(study, "_close", lambda _: None)
        study.finish(trial, synthetic.ORIGINAL, 1.0)
    with opened(storage, "bars", IDENTITY) as study:
        assert [t.state for t in study.trials()] == ["done"]
        assert study.claim(Point(), "r1", "random") is None


@pytest.mark.parametrize("part", ["model", "space"])
def test_a_study_of_something_else_is_refused(storage, part):
    with opened(storage, "bars", IDENTITY):
        pass
    with (
        pytest.raises(RunFolderError, match=f"holds the study 'bars' of another {part}: '.', this one's is 'x'"),
        opened(storage, "bars", {**IDENTITY, part: "x"}),
    ):
        pass
    with opened(storage, "others", {**IDENTITY, part: "x"}):
        pass


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/a.db", "nonsense", "postgresql://127.0.0.1:1/none"])
def test_a_storage_that_cannot_be_used_is_refused_with_the_way_out(url):
    # A driver is missing, or nothing answers.
    way_out = r"leave storage out|pip install \"lissom\[postgresql\]\"" if "postgresql" in url else "leave storage out"
    with pytest.raises(UsageError, match=rf"The storage '.*' cannot be used: .*({way_out})"), opened(url, "a", {}):
        pass


def test_a_password_is_never_shown():
    with pytest.raises(UsageError) as wrong, opened("postgresql://me:hidden@127.0.0.1:1/none", "a", {}):
        pass
    assert "hidden" not in str(wrong.value)
    assert "postgresql://me:***@127.0.0.1:1/none" in str(wrong.value)


def test_a_storage_that_is_lost_on_the_way_is_said_to_be(storage, tmp_path):
    def losing(recipe):
        (tmp_path / "search.db").write_bytes(b"no database")
        return synthetic.evaluate(recipe)

    with pytest.raises(StorageError, match=r"no longer answers: .*the same command continues"):
        synthetic.search(storage, call=losing, space=UNTRAINED, limits=Limits(trials=3))


@pytest.mark.parametrize("name", ["auto", "anneal"])
def test_interrupted_at_every_evaluation_it_ends_with_the_same_front(name, tmp_path):
    whole = synthetic.told(synthetic.search(f"sqlite:///{tmp_path / 'a.db'}", name=name, limits=Limits(trials=6)))
    seen: list[str] = []

    def interrupted(recipe):
        if seen.count(recipe.id) == 0:
            seen.append(recipe.id)
            raise KeyboardInterrupt
        seen.append(recipe.id)
        return synthetic.evaluate(recipe)

    for _ in range(50):
        try:
            found = synthetic.search(
                f"sqlite:///{tmp_path / 'b.db'}", name=name, call=interrupted, limits=Limits(trials=6)
            )
            break
        except KeyboardInterrupt:
            continue
    assert synthetic.told(found) == whole
    assert all(seen.count(one) == 2 for one in seen), "each was interrupted once and done once"


@pytest.mark.slow
def test_killed_at_random_moments_no_trial_is_lost_or_done_twice(tmp_path):
    whole = synthetic.told(synthetic.search(f"sqlite:///{tmp_path / 'a.db'}", name="random", limits=Limits(trials=12)))
    storage, log = f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "log"
    dice, kills = random.Random(0), 0
    while True:
        process = begin(storage, log, "random", 12, 0.05)
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        while process.poll() is None and (len(log.read_text().splitlines()) if log.exists() else 0) < lines + 4:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        time.sleep(dice.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    assert ended(process) == [whole]
    assert kills >= 2
    done = [line.split()[1] for line in log.read_text().splitlines()]
    # What is written down between the evaluation and the end of its trial may be evaluated again; nothing else is.
    assert len(set(done)) == 12
    assert len(done) <= 12 + kills


def test_two_processes_do_no_trial_twice_and_find_the_same_front(tmp_path):
    storage, log = f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "log"
    both = [begin(storage, log, "random", 6, 0.5, party=2) for _ in range(2)]
    fronts = ended(*both)
    done = [line.split() for line in log.read_text().splitlines()]
    assert len({recipe for _, recipe in done}) == len(done)
    assert len({pid for pid, _ in done}) == 2, "both had a part in it"
    assert fronts[0] == fronts[1]
    assert len(done) <= 7


def test_processes_of_joblib_end_with_the_same_trials(tmp_path):
    limits = Limits(trials=4)
    one = synthetic.search(f"sqlite:///{tmp_path / 'a.db'}", limits=limits)
    two = synthetic.search(f"sqlite:///{tmp_path / 'b.db'}", limits=limits, workers=Workers(2))
    assert {t.recipe for t in one.trials if t.point.epochs == 0} == {
        t.recipe for t in two.trials if t.point.epochs == 0
    }
    assert synthetic.told(one) == synthetic.told(two)


def test_of_several_that_take_the_last_place_one_has_it(storage):
    with opened(storage, "bars", IDENTITY) as one, opened(storage, "bars", IDENTITY) as other:
        assert one.claim(Point(), "r1", "random", 2) is not None
        last = other.claim(Point(prune=2.0), "r2", "random", 2)
        assert last is not None
        assert one.claim(Point(prune=3.0), "r3", "random", 2) is None
        assert one.claim(Point(prune=3.0, epochs=1), "r3", "recovery", 3) is not None, "of all trials it is the third"
        other.release(last)
        assert one.claim(Point(prune=3.0), "r4", "random", 2) is not None
        assert one.claim(Point(prune=4.0, epochs=1), "r5", "recovery", 3) is None


def test_a_batch_is_no_larger_than_what_is_left_of_the_number(tmp_path):
    """Four explored, three trained for one epoch; of the two with more there is room for one."""
    one, two = (
        synthetic.search(f"sqlite:///{tmp_path / name}", name="random", limits=Limits(trials=8), workers=workers)
        for name, workers in (("a.db", Workers()), ("b.db", Batches(2)))
    )
    assert [len(found.trials) for found in (one, two)] == [8, 8]
    assert synthetic.told(one) == synthetic.told(two)
