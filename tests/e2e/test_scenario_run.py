"""Runs that start from a scenario, and the command that recommends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny

from lissom import cli
from lissom.errors import TargetError, UsageError
from lissom.recipe import Recipe

PROJECT = str(Path(__file__).parent / "tiny_project.py")


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lissom", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_run_starts_from_the_recipe_of_the_scenario(run) -> None:
    result = run(recipe=None, scenario="server")
    assert [next(iter(step)) for step in result.record.recipe] == ["Fold", "Quantize"]
    assert result.record.target == "onnxruntime"
    assert result.ratios.size > 1.0
    again = run(recipe=None, scenario="server")
    assert again.record == result.record


def test_a_task_without_data_gets_inputs_made_up(run) -> None:
    task = tiny.task(train=None, calibration=None, validation=None)
    result = run(task=task, recipe=None, scenario="no-data", data_free="noise,examples=64")
    assert result.record.synthesis is not None
    assert any("made up" in note for note in result.record.notes)


@pytest.mark.slow
def test_a_search_keeps_to_the_scenario(run) -> None:
    result = run(recipe=None, scenario="memory", search="random", budget=8)
    assert result.record.search is not None
    assert set(result.record.search.space) <= {"precision", "epochs"}
    assert result.record.search.closed["prune"] == "not of the scenario 'memory'"


def test_scenario_and_recipe_are_refused_together_and_so_is_what_is_not_installed(run) -> None:
    with pytest.raises(UsageError, match="Leave one of them out"):
        run(scenario="mobile")
    with pytest.raises(UsageError, match="Did you mean 'realtime'"):
        run(recipe=None, scenario="realtimes")
    with pytest.raises(TargetError, match=r"'gpu' is for tensorrt, and none is available here.*--target"):
        run(recipe=None, scenario="gpu", target="auto")


def test_the_command_recommends_and_writes_a_recipe_that_plans(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    assert called(monkeypatch, "recommend", PROJECT, "--scenario", "edge", "--out", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == Recipe.read(file).to_data()
    assert found["after"]["bytes"] < found["before"]["bytes"]
    assert called(monkeypatch, "recommend", PROJECT, "--scenario", "edge") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("In the recipe", "Does not fit", "Counted, not measured", "Q2, 2026", "--scenario edge"):
        assert part in shown
    assert called(monkeypatch, "recommend", PROJECT, "--scenario", "egde") == 2
    assert "Did you mean 'edge'" in capsys.readouterr().err
