"""SCALE: what is made of the searches of one and of two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.experiments import scale
from benchmarks.results import met

TINY = Path(__file__).parents[1] / "e2e" / "lawful_project.py"


def trial(started: float, recipe: str, *, ahead: bool = True) -> dict[str, object]:
    figures = {"metric": 0.9, "macs": 10, "size_bytes": 100, "seconds": 10.0}
    return {"started": started, "recipe": recipe, "on_front": ahead, **figures}


ONE = [trial(10.0 * i, str(i)) for i in range(4)]
TWO = [trial(10.0 * (i // 2), str(i)) for i in (1, 0, 2, 3)]


def test_the_pace_is_from_the_first_candidate_to_the_end_of_the_last():
    assert scale.told(ONE)["seconds"] == 40.0
    assert scale.told(TWO)["seconds"] == 20.0
    assert scale.told(ONE)["front"] == scale.told(TWO)["front"]


@pytest.mark.parametrize(("two", "ratio", "differ"), [(TWO, 2.0, 0.0), (ONE, 1.0, 0.0), (TWO[:3], 1.5, 1.0)])
def test_the_goal_is_met_by_pace_and_the_same_front(two, ratio, differ):
    made = scale.outcome({0: {1: scale.told(ONE), 2: scale.told(two)}})
    assert made.value["candidates per hour, two over one"].value == ratio
    assert made.value["fronts that differ"].value == differ
    assert met(made.goal, made.value) == (ratio >= 1.7 and not differ)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_processes_of_a_small_project_find_one_front(tmp_path):
    found = {
        count: scale.searched(tmp_path / str(count), TINY, count, 0, (f"--set=log={tmp_path / 'log'}",))
        for count in (1, 2)
    }
    assert found[1]["candidates"] == found[2]["candidates"] > 4
    assert found[1]["front"] == found[2]["front"]
    assert scale.searched(tmp_path / "2", TINY, 2, 0, (f"--set=log={tmp_path / 'log'}",)) == found[2], "it is done"
