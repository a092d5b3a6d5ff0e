"""Whole runs judged by more than one metric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch

import lissom
from lissom import Goal
from lissom.errors import GoalError, UsageError


def zeros_right(outputs, targets) -> float:
    """Recall of class 0."""
    guess = torch.as_tensor(outputs).argmax(1)
    return float((guess[targets == 0] == 0).double().mean())


def task(**changed) -> lissom.Task:
    return tiny.task(metrics={"recall0": zeros_right, "negative_mse": one_hot_error}, **changed)


def one_hot_error(outputs, targets) -> float:
    wanted = torch.nn.functional.one_hot(targets, 4)
    return -float((torch.as_tensor(outputs) - wanted).square().mean())


def test_all_metrics_are_measured_before_and_after_and_bounds_by_name_judged(run):
    goal = Goal(metric_drops={"accuracy": 0.5, "negative_mse": 1e-12}, metric_drop_shares={"recall0": 0.5})
    result = run(recipe=tiny.RECIPE, task=task(), goal=goal)
    x, y = tiny.bars(200, 3)
    with torch.no_grad():
        outputs = tiny.tiny()(x)
    before = {one.name: one.value for one in result.before.metrics}
    assert before == pytest.approx(
        {"recall0": zeros_right(outputs, y), "negative_mse": one_hot_error(outputs, y)}, rel=1e-4
    )
    assert result.before.metric.name == "accuracy"
    assert [one.name for one in result.after.metrics] == ["recall0", "negative_mse"]
    assert [one.name for one in result.record.steps[-1].metrics] == ["recall0", "negative_mse"]
    own, error, share = result.goal
    assert (own.wish, own.met) == ("metric drop <= 50.00 pt", True), "the own metric by its name"
    assert share.wish == "recall0 drop <= 50.00 % of the original's"
    lost = before["negative_mse"] - result.after.metrics[1].value
    assert error.met == (lost <= 1e-12)
    assert result.goal_met == all(item.met for item in result.goal)
    page = result.report.read_text()
    assert "recall0 (test split)" in page
    assert "negative_mse (test split)" in page
    saved = json.loads((result.folder / "result.json").read_text())
    assert saved["after"]["metrics"][0]["name"] == "recall0"
    again = run(recipe=tiny.RECIPE, task=task(), goal=goal)
    assert again.record == result.record


def test_single_classes_are_measured_and_the_worst_is_named(run):
    model = tiny.tiny()
    x, y = tiny.bars(200, 3)
    with torch.no_grad():
        model.head.bias[2] -= 6.0  # class 2 is missed more often than others
        right = model(x).argmax(1) == y
    result = run(model=model, goal=Goal(class_floor=1.0, class_drop=0.5), task=task())
    floor, lost = result.goal
    wanted = {k: float(right[y == k].double().mean()) for k in range(4)}
    assert result.before.classes.by_label == pytest.approx(wanted)
    worst = min(wanted, key=wanted.get)
    percent, examples = f"{100 * wanted[worst]:.2f} %", int((y == worst).sum())
    assert floor.figure == f"{percent} in class {worst} ({examples} examples, was {percent})"
    assert (floor.met, lost.met) == (False, True)
    assert not result.goal_met
    assert f"class {worst}: {wanted[worst]:.2%} of {examples}" in result.report.read_text()


def test_soft_wishes_from_a_file_and_the_command_line_decide_no_exit_code(quick, monkeypatch, capfd, tmp_path):
    from lissom import cli

    monkeypatch.chdir(tmp_path)
    Path("goal.yaml").write_text("drop: 90%\nlatency: 1000x\nsize: 1x\nsoft: latency\n")
    Path("fold.yaml").write_text("- Fold: {}\n")
    project = str(Path(__file__).parent / "tiny_project.py")
    where = ["--recipe", "fold.yaml", "--target", "onnxruntime", "--threads", "1", "--json", "--out", "a"]
    wishes = ["--goal", "goal.yaml", "--class-floor", "100%", "--soft", "latency"]
    monkeypatch.setattr("sys.argv", ["lissom", "compress", project, *wishes, *where])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2, "soft is in the file, too"
    assert "--soft and the goal goal.yaml both say it" in capfd.readouterr().err
    Path("goal.yaml").write_text("drop: 90%\nlatency: 1000x\nsize: 1x\nsoft: [latency, class-floor]\n")
    monkeypatch.setattr("sys.argv", ["lissom", "compress", project, *wishes[:4], *where])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = {item["wish"]: item for item in json.loads(capfd.readouterr().out)["goal"]}
    assert [item["hard"] for item in found.values()] == [True, True, False, False]
    assert not found["latency ratio >= 1000.00x"]["met"]


def test_candidates_that_break_a_bound_by_name_are_not_chosen(run):
    """Dynamic and static rounding and the folded original: only the last has the original's error."""
    result = run(recipe=None, task=task(), goal=Goal(metric_drop=0.9, metric_drops={"negative_mse": 1e-9}))
    (chosen,) = [one for one in result.record.trials if one.chosen]
    assert chosen.recipe == "Fold()" or chosen.recipe == "Fold"


@pytest.mark.parametrize(
    ("goal", "given", "wrong", "says"),
    [
        (
            Goal(metric_drops={"recall1": 0.1}),
            {},
            GoalError,
            "'recall1', which is not measured. Did you mean 'recall0'",
        ),
        (
            Goal(class_floor=0.5),
            {"metric": one_hot_error},
            GoalError,
            "'one_hot_error' and 'recall0' tell no classes apart",
        ),
        (Goal(metric_drop=0.1, metric_drops={"accuracy": 0.1}), {}, GoalError, "bounds the drop of 'accuracy' twice"),
        (Goal(), {"metrics": {"accuracy": zeros_right}}, UsageError, "holds 'accuracy', which is the name of"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_any_work(run, tmp_path: Path, goal, given, wrong, says):
    with pytest.raises(wrong, match=says):
        run(task=tiny.task(**{"metrics": {"recall0": zeros_right}, **given}), goal=goal)
    assert not (tmp_path / "run" / "result.json").exists()


def spread(outputs, targets) -> float:
    """Of the logits: a network with fewer channels, not trained again, is less sure."""
    return float(torch.as_tensor(outputs).std())


def test_a_search_keeps_a_bound_by_name(run, monkeypatch):
    from lissom.pipeline import evaluating
    from lissom.search import opening

    monkeypatch.setattr(evaluating, "ROUNDS", 3)
    monkeypatch.setattr(opening, "PRUNE", (1.0, 1.5))
    monkeypatch.setattr(opening, "RANK", (1.0,))
    monkeypatch.setattr(opening, "_precisions", lambda *_, **__: ("float32",))
    goal = Goal(metric_drop=0.9, metric_drops={"spread": 1e-6}, class_floor=0.99, macs_ratio=1.4)
    result = run(recipe=None, search="random", task=tiny.task(metrics={"spread": spread}), goal=goal)
    found = result.record.search
    assert found is not None
    assert [set(t.metrics) for t in found.trials] == [{"spread"}] * 2
    assert all(0 <= t.worst_class <= 1 for t in found.trials)
    assert any("worst class >= 0.99 (" in sentence for sentence in found.explanation)
    assert not found.met
    assert any("spread drop <= 1e-06" in sentence for sentence in found.explanation)
    assert "spread" in result.report.read_text()
