"""The command line: what it prints where, and with which code it ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest
import tiny

import lissom
from lissom import cli, demo, errors

HERE = Path(__file__).parent
PROJECT = str(HERE / "tiny_project.py")
LISSOM = str(Path(sys.executable).with_name("lissom"))


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, quick: None
) -> Callable[..., Ended]:
    """`lissom ARGUMENTS` through the entry point, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["lissom", *map(str, arguments)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            cli.main()
        read = capfd.readouterr()
        assert "Traceback" not in read.err
        return Ended(int(ended.value.code or 0), read.out, read.err)

    return call


@pytest.fixture
def runs(finished: lissom.Result, tmp_path: Path) -> list[Path]:
    copies = [tmp_path / "a", tmp_path / "b"]
    for copy in copies:
        shutil.copytree(finished.folder, copy)
    return copies


def test_version_and_help(call) -> None:
    assert call("--version") == Ended(0, f"lissom {lissom.__version__}\n", "")
    shown = call("--help")
    assert shown.code == 0
    for command in ("demo", "inspect", "plan", "compress", "measure", "report", "targets"):
        assert command in shown.out
        helped = call(command, "--help")
        assert helped.code == 0
        assert "--json" in helped.out
    assert shown.out.startswith("Usage: lissom ")
    assert "1 goal missed, 2 wrong usage, 3 failed, 130 interrupted" in " ".join(shown.out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compress"], "Missing argument"),
        (["compress", PROJECT], "Missing option '--out'"),
        (["compress", "--nope"], "No such option"),
        (["copmress"], "No such command 'copmress'"),
        (["measure", "--rounds", "1", "x"], "--rounds"),
        (["compress", PROJECT, "-o", "r", "--drop", "lots"], "--drop 'lots' is not understood"),
        (["compress", PROJECT, "-o", "r", "--size", "0.5x"], "would make the model larger"),
        (["compress", PROJECT, "-o", "r", "--budget", "soon"], "budget 'soon' is not a time"),
        (["compress", PROJECT, "-o", "r", "--set", "x"], "--set takes NAME=VALUE, got 'x'"),
        (["compress", PROJECT, "-o", "r", "--set", "splti=a"], "takes no 'splti'. Did you mean 'split'?"),
        (["compress", PROJECT, "-o", "r", "-t", "openvin"], "Did you mean 'openvino'"),
        (["compress", PROJECT, "-o", "r", "-t", "tensorrt"], "is not available here"),
        (["compress", PROJECT, "-o", "r", "--recipe", "none.yaml"], "none.yaml cannot be read"),
        (["compress", PROJECT, "-o", "r", "-t", "onnxruntime", "--size", "10B"], "less than an empty model file"),
        (["compress", "none.py", "-o", "r"], "There is no project file none.py"),
        (["plan", PROJECT, "-t", "auto"], "auto is for compress"),
        (["plan", PROJECT, "--macs", "2x", "-r", "r.yaml"], "and --recipe r.yaml is given as well"),
        (["plan", PROJECT, "--macs", "2x", "--data-free", "auto"], "and --data-free auto is given as well"),
        (["plan", PROJECT, "--size", "0.5x"], "would make the model larger"),
        (["inspect", "none.py"], "There is no project file none.py"),
    ],
)
def test_wrong_usage_is_one_sentence_and_code_2(call, tmp_path: Path, arguments: list[str], said: str) -> None:
    ended = call(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "none"], "none is not a run folder"),
        (["measure", "none"], "none is not a run folder"),
        (["compress", PROJECT, "-o", PROJECT, "-t", "onnxruntime"], "cannot be written"),
        (["compress", PROJECT, "-o", str(HERE), "-t", "onnxruntime"], "is not empty and holds no run"),
    ],
)
def test_a_failure_is_one_sentence_and_code_3(call, arguments: list[str], said: str) -> None:
    ended = call(*arguments)
    assert ended.code == 3
    assert said in ended.err
    assert len([line for line in ended.err.splitlines() if line.startswith("failed: ")]) == 1


def test_inspect(call) -> None:
    found = json.loads(call("inspect", PROJECT, "--json").out)
    assert found["name"] == "bars"
    assert found["macs"] == sum(layer["macs"] for layer in found["layers"]) == 23104
    assert found["dynamic_batch"] is True
    shown = call("inspect", PROJECT)
    assert shown.code == 0
    assert "features.0" in shown.out
    assert "MACs" in shown.out


def test_inspect_shows_groups_and_sensitivity(call, tmp_path: Path) -> None:
    found = json.loads(call("inspect", PROJECT, "--sensitivity", "--html", "page.html", "--json").out)
    names = ["features.0.weight", "features.3.weight"]
    assert [group["name"] for group in found["groups"] if group["reason"] is None] == names
    assert found["groups"][0]["layers"] == ["features.0", "features.1", "features.3"]
    assert found["groups"][-1]["reason"] == "it is an output of the model"
    assert [one["group"] for one in found["sensitivity"]["groups"]] == names
    assert found["html"] == "page.html"
    assert "Sensitivity" in (tmp_path / "page.html").read_text()
    shown = call("inspect", PROJECT, "--groups", "--sensitivity")
    assert shown.code == 0
    for words in ("may be cut", "output of the model", "Change of accuracy, in points", "70% cut", "96 validation"):
        assert words in " ".join(shown.out.split())
    assert "sensitivity" in shown.err
    plain = call("inspect", PROJECT)
    assert "may be cut" not in plain.out
    assert plain.err.count("[") == 0
    assert "sensitivity" not in json.loads(call("inspect", PROJECT, "--json").out)


def test_inspect_says_what_sensitivity_lacks(call, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "import lissom, torch\n"
        "def build():\n"
        "    return torch.nn.Linear(4, 2), lissom.Task(example_inputs=(torch.zeros(1, 4),))\n"
    )
    ended = call("inspect", "bare.py", "--sensitivity")
    assert ended.code == 3
    assert "Sensitivity needs Task(metric=...) or Task(loss=...)" in ended.err


def test_plan_shows_what_other_ratios_would_cost(call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- Fold\n- Prune: {ratio: 0.5}\n")
    found = json.loads(call("plan", PROJECT, "--recipe", "r.yaml", "--json").out)
    assert [plan["transform"] for plan in found["plans"]] == ["Fold", "Prune"]
    fold, prune = found["outlook"]
    assert fold["channels"] == fold["outlook"] == []
    assert [one["ratio"] for one in prune["outlook"]] == [None, *(tenth / 10 for tenth in range(1, 10))]
    assert prune["outlook"][0]["cost"] == found["plans"][1]["predicted"]
    assert prune["before"]["macs"] == 23104
    layers = {one["layer"]: one for one in prune["channels"]}
    assert sum(layers[name]["after"] for name in ("features.0", "features.3")) == 12
    assert layers["head"]["reason"] == "it is an output of the model"
    shown = call("plan", PROJECT, "--recipe", "r.yaml")
    assert shown.code == 0
    text = " ".join(shown.out.split())
    for words in ("this recipe 12 of 24", "2 groups of channels cut, in 3 layers", "90%", "importance", "8 -> "):
        assert words in text


def test_plan(call, tmp_path: Path) -> None:
    found = json.loads(call("plan", PROJECT, "--json").out)
    assert [plan["transform"] for plan in found["plans"]] == ["Fold", "Quantize"]
    assert found["target"] == "onnxruntime"
    (tmp_path / "r.yaml").write_text("- Fold\n")
    shown = call("plan", PROJECT, "--recipe", "r.yaml")
    assert shown.code == 0
    assert "Fold" in shown.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.yaml"]


def test_plan_for_a_goal_is_where_a_search_would_start(call, tmp_path: Path) -> None:
    (tmp_path / "goal.yaml").write_text("macs: 2x\ndrop: 5%\n")
    found = json.loads(call("plan", PROJECT, "--goal", "goal.yaml", "--size", "6x", "--json").out)
    assert found["goal"] == {"metric_drop": 0.05, "macs_ratio": 2.0, "size_ratio": 6.0}
    names = [next(iter(step)) for step in found["recipe"]]
    assert "Prune" in names
    assert "Quantize" in names
    assert [plan["transform"] for plan in found["plans"]] == names
    seen = {one["wish"]: one for one in found["foreseen"]}
    macs = seen["MACs ratio >= 2x"]
    assert macs["basis"] == "counted"
    assert macs["figure"] == found["plans"][-1]["predicted"]["macs"] / 23104
    assert macs["kept"] is (macs["figure"] <= 0.5)
    assert seen["metric drop <= 0.05"]["basis"] == "prior"
    assert any("Foreseen, not measured" in note for note in found["start"])
    shown = call("plan", PROJECT, "--macs", "2x", "--drop", "5%")
    assert shown.code == 0
    for words in ("Foreseen for the goal", "MACs ratio >= 2x", "counted", "- Prune:"):
        assert words in shown.out
    assert [p.name for p in tmp_path.iterdir()] == ["goal.yaml"]


def test_plan_measures_the_original_for_wishes_in_units(call) -> None:
    found = json.loads(call("plan", PROJECT, "--latency", "1000ms", "--json").out)
    seen = {one["wish"]: one for one in found["foreseen"]}
    assert seen["latency <= 1000 ms"]["kept"] is True
    assert seen["latency <= 1000 ms"]["bound"] > 1
    assert any("times layers on the target" in note for note in found["start"])


def test_export_writes_for_a_runtime_that_is_not_here(call, tmp_path: Path) -> None:
    found = json.loads(call("export", PROJECT, "--target", "tensorrt", "--out", "build", "--json").out)
    assert found["files"] == ["model.onnx"]
    graph = onnx.load(tmp_path / "build" / "model.onnx").graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    again = call("export", PROJECT, "--target", "tensorrt", "--out", "build")
    assert again.code == 3
    assert "exists already" in again.err
    assert call("export", PROJECT, "--target", "auto", "--out", "other").code == 2
    assert not (tmp_path / "other").exists()


def test_targets(call) -> None:
    found = json.loads(call("targets", "--json").out)
    assert {"onnxruntime", "openvino", "executorch", "tensorrt", "torch"} <= set(found)
    assert found["onnxruntime"]["found"] is True
    assert found["tensorrt"]["found"] or "pip install" in found["tensorrt"]["detail"]
    assert "onnxruntime" in call("targets").out


def test_compress_says_how_it_went_by_its_code(call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- Fold\n")
    common = ("compress", PROJECT, "--recipe", "r.yaml", "-t", "onnxruntime", "--threads", 1)
    met = call(*common, "--out", "met", "--drop", "5%", "--json")
    assert met.code == 0
    record = json.loads(met.out)
    assert record == json.loads((tmp_path / "met/result.json").read_text())
    assert record["command"].startswith("lissom compress ")
    assert "building" in met.err  # what the project prints does not disturb the document
    manifest = json.loads((tmp_path / "met/manifest.json").read_text())
    assert manifest["project"] == PROJECT
    missed = call(*common, "--out", "missed", "--drop", "5%", "--size", "6x")
    assert missed.code == 1
    assert "missed" in missed.out
    assert "[ " in missed.err
    again = call(*common, "--out", "missed", "--drop", "5%", "--size", "6x")
    assert again.code == 1
    assert "already finished" in again.err
    other = call(*common, "--out", "missed", "--drop", "4%")
    assert other.code == 3
    assert "already holds a finished run that was asked for otherwise" in other.err


def test_measure_and_report_take_several_runs(call, runs: list[Path], tmp_path: Path) -> None:
    rows = json.loads(call("measure", *runs, "--rounds", 3, "--json").out)
    assert [(row["run"], row["model"]) for row in rows] == [
        (str(run), model) for run in runs for model in ("original", "compressed")
    ]
    assert all(row["latency_ms"]["median"] > 0 for row in rows)
    assert [row["faster"] is None for row in rows] == [True, False, True, False]
    shown = call("measure", runs[0], "--rounds", 3)
    assert shown.code == 0
    assert "original" in shown.out
    assert json.loads(call("report", *runs, "--out", "page.html", "--json").out) == {"report": "page.html"}
    assert (tmp_path / "page.html").stat().st_size > 1000
    (runs[1] / "result.json").write_text("{}")
    ended = call("report", *runs)
    assert ended.code == 3
    assert "result.json is truncated or altered" in ended.err
    assert not (tmp_path / "report.html").exists()


def test_the_demo_tells_its_story(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: one for name, one in demo.survey().items() if name in ("onnxruntime", "tensorrt", "torch")}
    monkeypatch.setattr(demo, "survey", lambda: found)
    # Its own network is trained in tests/examples and in the wheel's test.
    monkeypatch.setattr(demo.demo_project, "build", lambda: (tiny.tiny(), tiny.task()))
    ended = call("demo", "--out", "story", "--json")
    assert ended.code in (0, 1)
    assert [record["target"] for record in json.loads(ended.out)] == ["onnxruntime"]
    assert "Fastest of 1" in ended.err
    assert "tensorrt" in ended.err
    assert (tmp_path / "story/report.html").is_file()


def test_what_lissom_does_not_expect_is_code_3_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr("lissom.export.catalogue.survey", broken)
    monkeypatch.setattr(sys, "argv", ["lissom", "targets"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert "failed: RuntimeError, which Lissom does not expect" in said


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(errors.ProjectError("x"), 2), (errors.VerificationError("x"), 3), (KeyboardInterrupt(), 130)],
)
def test_every_kind_of_error_has_its_code(
    call, monkeypatch: pytest.MonkeyPatch, wrong: BaseException, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise wrong

    monkeypatch.setattr(lissom, "analyze", fail)
    ended = call("inspect", PROJECT)
    assert ended.code == code
    assert ("Stopped. The same command continues" in ended.err) == (code == 130)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    piped = f"{LISSOM} --help | head -c 1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert process.returncode == 0
    assert process.stderr == ""


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- Fold\n")
    command = ["compress", PROJECT, "--recipe", "r.yaml", "-t", "onnxruntime", "--out", "run", "--json"]
    with subprocess.Popen(
        [LISSOM, *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background inherits an ignored SIGINT; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        saved = tmp_path / "run/state/step-1-fold.json"
        until = time.monotonic() + 120
        while not saved.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Stopped. The same command continues where it was." in err
    assert "Traceback" not in err
    assert saved.exists()
    done = call(*command)
    assert done.code == 0
    assert json.loads(done.out)["name"] == "bars"
    assert not (tmp_path / "run/state").exists()
