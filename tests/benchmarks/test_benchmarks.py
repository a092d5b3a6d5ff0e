"""The benchmarks' own bookkeeping: result files, the page made from them, the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.context import Context, MissingDataError
from benchmarks.protocol import machine
from benchmarks.results import Beside, Figure, Goal, Outcome, Result, Run, Wish

from benchmarks import __main__ as command
from benchmarks import evidence, report, results

FIELDS = {
    *("id", "title", "date", "goal", "value", "met", "reference", "control", "seeds", "runs", "command"),
    "environment",
}
COMMITTED = list(results.paths(results.FOLDER))


def sample(value: float = 2.0, samples: tuple[float, ...] = (1.0, 1.5, 1.25)) -> Result:
    goal = Goal(text="twice as fast", wishes=(Wish(figure="speed-up", at_least=2.0),))
    reached = {"speed-up": Figure(value=value, low=1.9, high=2.1, unit="x"), "size": Figure(value=12345.0)}
    return Result(
        id="T1",
        title="A test",
        date="2026-11-24",
        goal=goal,
        value=reached,
        met=results.met(goal, reached),
        reference=(Beside(what="peer", value=1.7, unit="x", source="the same run"),),
        control=(Beside(what="float", value=91.73, unit="%", source="the same run"),),
        seeds=(0,),
        runs=(Run(name="ours", figures={"bytes": 296623.0, "status": "ok"}, samples_ms=samples),),
        command="python -m benchmarks run T1 --force",
        environment=machine(2),
    )


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_result_is_whole_and_judged_by_its_own_figures(path: Path):
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert set(raw) == FIELDS
    result = results.read(path)
    assert result.id == path.stem
    assert result.met == results.met(result.goal, result.value)
    assert all(wish.figure in result.value for wish in result.goal.wishes)
    assert result.id in command.known()
    assert result.runs


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_no_committed_result_names_a_folder_of_somebody(path: Path):
    assert not re.search(r"(/home/|/tmp/|/work/|/root/|[A-Z]:\\\\)", path.read_text(encoding="utf-8"))


def test_the_page_is_what_the_results_give():
    found = results.read_all(results.FOLDER)
    if not found:
        pytest.skip("no result is committed yet")
    assert report.PAGE.read_text(encoding="utf-8") == report.render(found)


def test_a_result_file_holds_exactly_its_fields_and_reads_back(tmp_path: Path):
    path = results.write(sample(), tmp_path)
    assert set(json.loads(path.read_text(encoding="utf-8"))) == FIELDS
    assert results.read_all(tmp_path) == [sample()]
    assert [file.name for file in tmp_path.iterdir()] == ["T1.json"]


@pytest.mark.parametrize(
    ("bounds", "value", "kept"),
    [
        ({"at_least": 2.0}, 2.0, True),
        ({"at_least": 2.0}, 1.99, False),
        ({"at_most": 0.1}, 0.1, True),
        ({"at_most": 0.1}, 0.11, False),
        ({"at_least": 1.0, "at_most": 2.0}, 3.0, False),
        ({"at_most": 0.1}, -0.3, True),
    ],
)
def test_a_goal_is_met_by_its_figures(bounds: dict[str, float], value: float, kept: bool):
    goal = Goal(text="", wishes=(Wish(figure="a", **bounds),))
    assert results.met(goal, {"a": Figure(value=value)}) is kept


def test_a_missing_figure_does_not_meet_a_goal():
    assert not results.met(Goal(text="", wishes=(Wish(figure="a", at_most=1.0),)), {"b": Figure(value=0.0)})


def test_the_page_shows_value_goal_reference_control_interval_command_and_machine():
    page = report.render([sample()])
    row = next(line for line in page.splitlines() if line.startswith("| [T1]"))
    for shown in (
        *("twice as fast", "speed-up: 2 x [1.9, 2.1]", "yes", "peer: 1.7 x (the same run)", "float: 91.73 %"),
        *("`python -m benchmarks run T1 --force`", "2026-11-24", sample().environment.cpu),
    ):
        assert shown in row
    assert "| ours | 1.25 [1, 1.5] | 296,623 | ok |" in page
    assert page == report.render([sample()])


def test_a_missed_goal_is_shown_as_missed():
    assert "| no |" in report.render([sample(value=1.99)])


def test_list_names_every_experiment(capsys: pytest.CaptureFixture[str]):
    assert command.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in ("BERT", "P6", "P6PLAN", "Q2", "R50", "ZOO"):
        assert re.search(rf"^{name} ", shown, re.MULTILINE)


def test_an_experiment_says_how_to_give_missing_data(tmp_path: Path):
    bare = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=1)
    with pytest.raises(MissingDataError, match=r"--data is not given: pass --data FOLDER.*cifar10/"):
        bare.folder("data", "cifar10")
    wrong = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=1, weights=tmp_path)
    with pytest.raises(MissingDataError, match=r"holds no resnet20\.safetensors: pass --weights FOLDER"):
        wrong.folder("weights", "resnet20.safetensors")
    (tmp_path / "resnet20.safetensors").touch()
    assert wrong.folder("weights", "resnet20.safetensors") == tmp_path / "resnet20.safetensors"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results and page of a checkout of its own."""
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(report, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(evidence, "PLACE", tmp_path / "evidence.json")
    return tmp_path


def test_an_experiment_asked_for_without_data_fails_and_one_of_all_is_skipped(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(command, "known", lambda: ("Q2",))
    assert command.main(["run", "q2"]) == 1
    assert command.main(["run", "--all"]) == 0
    assert capsys.readouterr().out.count("Q2: skipped. --data is not given") == 2
    assert not list((elsewhere / "results").glob("*"))


def test_an_unknown_experiment_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert command.main(["run", "Q22"]) == 2
    assert "Did you mean 'Q2'?" in capsys.readouterr().err
    assert command.main(["run"]) == 2


def test_a_run_writes_its_result_once(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    class Experiment:
        TITLE, NEEDS = "A test", ("data",)
        calls = 0

        @classmethod
        def run(cls, context: Context) -> Outcome:
            cls.calls += 1
            assert context.scratch.is_dir()
            return Outcome(**{name: getattr(sample(), name) for name in Outcome.model_fields})

    monkeypatch.setattr(command, "known", lambda: ("T1",))
    monkeypatch.setattr(command, "experiment", lambda name: Experiment)
    folder = str(elsewhere / "private")
    for _ in range(2):
        assert command.main(["run", "T1", "--data", folder]) == 0
    assert Experiment.calls == 1
    assert "--force measures again" in capsys.readouterr().out
    assert command.main(["run", "T1", "--data", folder, "--force", "--rounds", "3"]) == 0
    assert Experiment.calls == 2
    found = results.read(elsewhere / "results" / "T1.json")
    assert found.command == "python -m benchmarks run T1 --data FOLDER --rounds 3 --force"
    assert found.met
    assert (elsewhere / "RESULTS.md").read_text(encoding="utf-8") == report.render([found])
