"""From a goal to a model, no recipe given: whole runs that search."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch.nn.functional as F

import lissom
from lissom import Fold, Goal, Recipe
from lissom.errors import DataError, RunFolderError, StorageError, UsageError, WorkerError
from lissom.measure import environment
from lissom.pipeline import evaluating
from lissom.pipeline.evaluating import Evaluator
from lissom.pipeline.quiet import Quiet
from lissom.runfolder import StageFolder
from lissom.search import opening
from lissom.target import load_target
from lissom.terminal import show_run

DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"
GOAL = Goal(metric_drop=0.5, macs_ratio=1.4)
UNREACHABLE = Goal(metric_drop=0.9, macs_ratio=2.5)


@pytest.fixture
def search(run: Callable[..., lissom.Result], monkeypatch: pytest.MonkeyPatch) -> Callable[..., lissom.Result]:
    """A search of few points, timed shortly."""
    monkeypatch.setattr(evaluating, "ROUNDS", 3)
    monkeypatch.setattr(opening, "PRUNE", (1.0, 1.5))
    monkeypatch.setattr(opening, "RANK", (1.0,))
    monkeypatch.setattr(opening, "_precisions", lambda *_, **__: ("float32", "float16"))

    def compress(**changed: object) -> lissom.Result:
        return run(**{"target": "torch", "recipe": None, "search": "random", "goal": GOAL, **changed})

    return compress


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recipes that are evaluated, in order."""
    seen: list[str] = []
    call = Evaluator.__call__

    def counted(self: Evaluator, recipe: Recipe):
        seen.append(recipe.id)
        return call(self, recipe)

    monkeypatch.setattr(Evaluator, "__call__", counted)
    return seen


def test_a_goal_becomes_a_recipe_the_record_says_how_and_another_run_may_share_the_trials(search, evaluated, tmp_path):
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    result = search(storage=storage, out=tmp_path / "a")
    found = result.record.search
    assert found is not None
    assert found.met
    assert result.goal_met
    (chosen,) = [t for t in found.trials if t.chosen]
    assert chosen.recipe == Recipe.from_data(result.record.recipe).title
    assert chosen.point["prune"] == 1.5
    assert chosen.macs == result.after.macs
    assert found.space["prune"] == [1.0, 1.5]
    assert found.closed["epochs"] == "training needs Task(train=..., loss=...)"
    assert not (result.folder / "state").exists()
    assert "Front of the search" in result.report.read_text()
    again = search(storage=storage, out=tmp_path / "a")
    assert again.record == result.record, "a finished run is read back"
    before = list(evaluated)
    second = search(storage=storage, out=tmp_path / "b")
    assert evaluated == before
    assert second.record.recipe == result.record.recipe
    with pytest.raises(RunFolderError, match=r"of another settings: 'batch 1, threads 1, seed 0', .*seed 1"):
        search(storage=storage, out=tmp_path / "c", seed=1)


@pytest.mark.slow
def test_interrupted_it_goes_on_and_the_choice_is_not_made_again(search, evaluated, monkeypatch):
    counted, stops = Evaluator.__call__, [False, True, False, True]

    def stopping(self, recipe):
        if stops and stops.pop(0):
            raise KeyboardInterrupt
        return counted(self, recipe)

    monkeypatch.setattr(Evaluator, "__call__", stopping)
    for _ in range(5):
        try:
            result = search(goal=UNREACHABLE)
            break
        except KeyboardInterrupt:
            continue
    assert not stops
    assert len(set(evaluated)) == len(evaluated) == len(result.record.search.trials) == 4


def test_continued_on_another_machine_every_latency_is_taken_again(search, evaluated, monkeypatch, capsys):
    counted = Evaluator.__call__

    def stopping(self, recipe):
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return counted(self, recipe)

    monkeypatch.setattr(environment, "cpu_model", lambda _: "Old CPU")
    with monkeypatch.context() as first:
        first.setattr(Evaluator, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            search(goal=UNREACHABLE)
    before = list(evaluated)
    monkeypatch.setattr(environment, "cpu_model", lambda _: "New CPU")
    result = search(goal=UNREACHABLE)
    assert evaluated[: len(before)] == before
    assert set(before) <= set(evaluated[len(before) :])
    assert len(evaluated) == len(before) + 4
    found = result.record.search
    assert [(m.machine, m.again, m.left) for m in found.moved] == [("Old CPU", 2, 0)]
    assert len(found.trials) == 4
    assert result.record.environment.cpu == "New CPU"
    notes = " ".join(result.record.notes)
    assert "The run was begun on another machine (Old CPU). Every latency was taken again" in notes
    assert "measured on another machine (Old CPU) were measured again before they were compared: 2." in notes
    show_run(result.record, result.folder, result.report)
    assert "begun on another machine (Old CPU)" in " ".join(capsys.readouterr().out.split())
    assert "begun on another machine (Old CPU)" in result.report.read_text()


def test_a_worker_on_another_kind_of_machine_ends_the_search(search, monkeypatch):
    counted = Evaluator.__call__

    def abroad(self, recipe):
        monkeypatch.setattr(environment, "cpu_model", lambda _: "Far CPU")
        return counted(self, recipe)

    monkeypatch.setattr(environment, "cpu_model", lambda _: "Near CPU")
    monkeypatch.setattr(Evaluator, "__call__", abroad)
    with pytest.raises(WorkerError, match=r"another kind of machine than the search: Far CPU, not Near CPU\."):
        search()


def test_latency_is_foretold_from_layers_and_the_page_says_how_well(search):
    goal = Goal(metric_drop=0.9, latency_ratio=1000.0)
    result = search(target="onnxruntime", search="knapsack", goal=goal)
    found = result.record.search
    assert found is not None
    assert found.latency_layers == len([layer for layer in result.record.layers if layer.macs])
    assert found.latency_candidates == 3 + len(found.trials), "probes: the width, the precision, and both"
    assert found.latency_error is not None
    assert f"Latency was foretold from {found.latency_layers} layers to " in result.report.read_text()


def test_a_trace_is_made_once_in_a_process_and_does_not_travel(tmp_path):
    target, stages = load_target("torch"), StageFolder(tmp_path, 0)
    one = Evaluator(tiny.tiny(), tiny.task(), target, stages, Quiet(tmp_path / "quiet"), 1, 1, 0, False, "here")
    assert one.traced is one.traced
    sent = pickle.loads(pickle.dumps(one))
    assert "traced" not in vars(sent)
    assert sent.traced.graph == one.traced.graph


def test_a_goal_out_of_reach_is_a_result_that_explains_itself(search):
    result = search(goal=UNREACHABLE)
    found = result.record.search
    assert found is not None
    assert not result.goal_met
    assert len(found.trials) == 4
    assert found.binding == "MACs ratio >= 2.5x"
    assert any("without it 4 would do" in s for s in found.explanation)


@pytest.mark.parametrize(
    ("changed", "wrong", "says"),
    [
        ({"search": "best"}, UsageError, "Unknown search 'best'"),
        ({"recipe": Recipe([Fold()])}, UsageError, "finds a recipe, and one is given: Fold"),
        ({"search": None, "storage": "sqlite:///a.db"}, UsageError, "storage='sqlite:///a.db' is of a search"),
        ({"search": None, "workers": 2}, UsageError, "workers=2 is of a search"),
        ({"fallback": True}, UsageError, "both are here"),
        ({"workers": "ray:0"}, UsageError, "workers must be at least 1"),
        ({"workers": 0}, UsageError, "workers must be at least 1"),
        ({"task": tiny.task(validation=None)}, DataError, r"the task has no validation\. Give Task\(validation="),
        ({"task": tiny.task(metric=None), "goal": None}, DataError, "the task has no metric"),
        ({"storage": "sqlite:////no/such/place/a.db"}, UsageError, "cannot be used"),
    ],
)
def test_what_makes_no_sense_is_refused(search, changed, wrong, says):
    with pytest.raises(wrong, match=says):
        search(**changed)


@pytest.mark.parametrize("wish", [{"storage": "sqlite:////no/such/place/a.db"}, {"workers": "ray://127.0.0.1:1"}])
def test_what_cannot_be_reached_is_done_without_only_if_that_was_asked_for(search, monkeypatch, wish):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises((StorageError, WorkerError)):
        search(**wish)
    result = search(**wish, fallback=True)
    (said,) = result.record.search.fallbacks
    assert "As asked, " in said
    assert said in result.record.notes


def test_on_the_command_line(search, monkeypatch, capfd, tmp_path):
    from lissom import cli

    monkeypatch.chdir(tmp_path)
    project = str(Path(__file__).parent / "tiny_project.py")
    wishes = ["--macs", "1.4x", "--drop", "50%", "--search", "netadapt", "--budget", "30min"]
    where = ["--target", "onnxruntime", "--out", "a", "--threads", "1", "--json"]
    lost = ["--storage", "postgresql://me:hidden@127.0.0.1:1/none", "--fallback"]
    monkeypatch.setattr(sys, "argv", ["lissom", "compress", project, *wishes, *where, *lost])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    record = json.loads(capfd.readouterr().out)
    assert "hidden" not in json.dumps(record)
    assert "postgresql://me:***@127.0.0.1:1/none" in record["command"]
    found = record["search"]
    assert len(found["fallbacks"]) == 1
    assert (found["searcher"], found["budget_seconds"], found["met"]) == ("netadapt", 1800.0, True)


@pytest.mark.slow
def test_digits_are_pruned_trained_and_rounded_for_their_goal(tmp_path):
    from lissom.project import load_project

    model, task = load_project(DIGITS, {})
    result = lissom.compress(
        model, task, target="onnxruntime", goal=Goal(metric_drop=0.02, size_ratio=10, macs_ratio=3),
        budget="4min", out=tmp_path / "run", threads=1,
    )  # fmt: skip
    assert result.goal_met
    assert result.record.search is not None
    assert any(t.by == "recovery" for t in result.record.search.trials)
    assert F.cross_entropy is task.loss
