"""`lissom compress --search` killed at random moments and started again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import random
import time
from pathlib import Path

import killing
import pytest


@pytest.fixture(scope="module")
def processes():
    return killing.context()


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory) -> tuple[dict[str, object], float]:
    """What an undisturbed run finds, and how long it takes."""
    place = tmp_path_factory.mktemp("whole")
    # The first one brings the server of forks up, which takes as long as several runs.
    killing.begin(processes, place / "warm", place / "warm.db", "--help").join(300)
    began = time.monotonic()
    process = killing.begin(processes, place / "run", place / "search.db")
    process.join(300)
    assert process.exitcode == 1, (place / "search.said").read_text()
    return killing.told(place / "run"), time.monotonic() - began


def killed(processes, place: Path, dice: random.Random, longest: float, most: int) -> int:
    """One run, killed up to so many times; how many it took."""
    for count in range(most + 1):
        process = killing.begin(processes, place / "run", place / "search.db")
        process.join(dice.uniform(0.0, longest) if count < most else 300)
        if process.exitcode is not None:
            assert process.exitcode == 1, (place / "search.said").read_text()
            return count
        process.kill()
        process.join(60)
    raise AssertionError(f"the last one did not end: {(place / 'search.said').read_text()}")


def check(place: Path, whole: dict[str, object], kills: int) -> None:
    assert killing.told(place / "run") == whole
    ended = killing.closed(place / "search.db")
    assert len(set(ended)) == len(ended) == len(whole["trials"]), "each candidate has one trial"
    seen = killing.evaluated(place / "search.db")
    assert set(seen) == set(ended)
    # A kill between the end of an evaluation and the note of it makes it be evaluated again; nothing else does.
    assert len(seen) <= len(ended) + kills


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_random_moments_it_ends_with_the_same_front(processes, whole, tmp_path):
    wanted, seconds = whole
    dice, kills, runs = random.Random(0), 0, 0
    while kills < 20:
        place = tmp_path / str(runs)
        had = killed(processes, place, dice, seconds, 20 - kills)
        check(place, wanted, had)
        kills, runs = kills + had, runs + 1
