"""No data, from the command line: handwritten digits compressed by what the network remembers of them."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

import lissom
from lissom import DataFree, Finetune, Fold, Prune, Quantize, Recipe, Synthesis, cli, demo_project
from lissom.errors import DataError, UsageError
from lissom.pipeline import arranged, datafree, measuring, supplied

PROJECT = """
import importlib.util
import lissom
from lissom import demo_project
from lissom.data import Batches
from safetensors.torch import load_file

spec = importlib.util.spec_from_file_location("digits", demo_project.path())
digits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits)

def build(weights="digits.safetensors"):
    model = digits.DigitsNet().eval()
    model.load_state_dict(load_file(weights))
    _, scans = lissom.data.split(digits.digits(), 0.2, seed=0)
    test = Batches(scans, batch_size=256, mean=0.3, std=0.35)
    x, _ = next(iter(test))
    return model, lissom.Task(example_inputs=(x[:1],), name="digits", test=test, metric=lissom.metrics.accuracy)
"""
RECIPE = """
- Prune: {ratio: 0.15, criterion: taylor, recovery: none}
- Finetune: {epochs: 2, learning_rate: 0.02, precision: float32, channels_last: false}
- Fold
- Quantize: {mode: static}
"""
HOW = "inversion,low=-0.86,high=2,batch_size=64,steps=16,updates=40,examples=256"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, _ = demo_project.build(epochs=6)
    path = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, quick: None, weights: Path
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lissom", *map(str, arguments), "--set", f"weights={weights}"])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            cli.main()
        read = capfd.readouterr()
        assert "Traceback" not in read.err
        return int(ended.value.code or 0), read.out, read.err

    return call


def test_digits_are_compressed_without_a_digit(call, tmp_path: Path) -> None:
    code, out, _ = call(
        "compress", "project.py", "-t", "onnxruntime", "-r", "recipe.yaml", "--data-free", HOW, "--drop", "3pt",
        "--out", "run", "--json",
    )  # fmt: skip
    result = json.loads(out)
    assert code == 0, result["goal"]
    assert result["before"]["metric"]["split"] == "test"
    assert result["before"]["metric"]["value"] > 0.9
    made = result["synthesis"]
    assert made["examples"] == 256
    assert made["splits"] == ["train", "calibration", "validation"]
    assert made["settings"]["method"] == "inversion"
    assert made["settings"]["updates"] == 40
    assert made["signs"]["collapsed"] is None
    assert made["signs"]["balance"] > 0.9
    assert [step["made_up"] for step in result["steps"]] == [["calibration"], ["train"], [], ["calibration"]]
    trained = result["steps"][1]
    assert trained["settings"]["teacher"] == "original"
    assert trained["synthesis"]["settings"]["method"] == "inversion"
    assert len(trained["synthesis"]["history"]) == 2
    assert any(note.startswith("No real data: 256 inputs were made up by inversion") for note in result["notes"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('<img class="sheet" src="data:image/png;base64,') == 2
    assert "Which steps read made up data" in page
    # The recipe that is written down says all: it does the same without the option.
    assert Recipe.read(tmp_path / "run" / "recipe.yaml").steps[1].synthesis.method == "inversion"
    code, out, _ = call(
        "compress", "project.py", "-t", "onnxruntime", "-r", "recipe.yaml", "--data-free", HOW, "--drop", "3pt",
        "--out", "run", "--json",
    )  # fmt: skip
    assert json.loads(out) == result


def test_a_plan_says_what_will_be_made_up_and_why(call) -> None:
    how = "inversion,updates=5,batch_size=32,examples=32"
    code, out, _ = call("plan", "project.py", "-r", "recipe.yaml", "--data-free", how)
    text = " ".join(out.split())
    assert code == 0
    assert "The task has no training and no calibration data: 32 inputs are made up by inversion" in text
    assert "for Prune, Quantize." in text
    assert "Finetune makes its inputs up by inversion while it trains" in text
    code, out, _ = call("plan", "project.py", "--data-free", how, "--json")
    found = json.loads(out)
    assert [plan["transform"] for plan in found["plans"]] == ["Fold", "Quantize"]
    assert found["synthesis"]["examples"] == 32
    assert "for Quantize." in found["data_free"][0]


def test_a_file_for_another_device_needs_no_data(call, tmp_path: Path) -> None:
    how = "inversion,updates=2,batch_size=16,examples=16"
    code, out, _ = call("export", "project.py", "-t", "tensorrt", "--data-free", how, "--out", "build", "--json")
    assert code == 0
    assert json.loads(out)["recipe"][1]["Quantize"]["mode"] == "static"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("dream", "'noise', 'drawings', 'inversion', 'generator', 'adversarial' or 'meta'"),
        ("inversion,hihg=1", "unknown field 'hihg'. Did you mean 'high'"),
        ("inversion,low", "takes a method and NAME=VALUE, got 'low'"),
        ("inversion,examples=3", "examples: Input should be greater than or equal to 10, got '3'"),
        (
            "auto,low=0",
            "'auto' chooses method and settings by the model, got low too. Name the method: inversion,low=0",
        ),
    ],
)
def test_wrong_words_are_usage_errors(call, tmp_path: Path, how: str, said: str) -> None:
    for command in (["compress", "project.py", "-t", "onnxruntime", "--out", "r"], ["plan", "project.py"]):
        code, _, err = call(*command, "--data-free", how)
        assert code == 2
        assert said in " ".join(err.split())
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("step", ["Quantize", "Finetune"])
def test_without_the_option_the_way_out_is_named(call, tmp_path: Path, step: str) -> None:
    (tmp_path / "needs.yaml").write_text(f"- {step}\n")
    for command in (["compress", "project.py", "-t", "onnxruntime", "--out", "r"], ["plan", "project.py"]):
        code, _, err = call(*command, "-r", "needs.yaml")
        assert code == 3
        assert "--data-free" in err


def bare(**more: object) -> lissom.Task:
    return lissom.Task(**{"example_inputs": (tiny.bars(1, 5)[0],), **more})  # type: ignore[arg-type]


def test_the_method_follows_from_the_model() -> None:
    assert arranged(tiny.tiny(), bare(), None, "auto").synthesis.method == "inversion"
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    assert arranged(plain, bare(), None, DataFree()).synthesis.method == "generator"
    with pytest.raises(DataError, match=r"the teacher has none with running statistics.*Take method='generator'"):
        supplied(plain, bare(), arranged(plain, bare(), None, "inversion"), seed=0)


def test_only_what_is_read_is_made() -> None:
    dynamic = Recipe([Fold(), Quantize(mode="dynamic")])
    assert arranged(tiny.tiny(), bare(), dynamic, "auto").examples == 0
    trains = arranged(tiny.tiny(), bare(), Recipe([Finetune(epochs=1)]), Synthesis(method="noise"))
    assert trains.examples == 0
    assert trains.recipe is not None
    (step,) = trains.recipe.steps
    assert isinstance(step, Finetune)
    assert (step.teacher, step.synthesis) == ("original", Synthesis(method="noise"))
    own = Finetune(epochs=1, teacher="task", synthesis=Synthesis(method="generator"))
    kept = arranged(tiny.tiny(), bare(), Recipe([own]), "inversion").recipe
    assert kept is not None
    assert kept.steps == (own,)
    held = bare(calibration=tiny.loader(48, 1))
    reads = arranged(tiny.tiny(), held, Recipe([Prune(ratio=0.3, criterion="taylor")]), "auto")
    assert reads.examples == 0


def test_data_are_not_made_up_where_there_are_some() -> None:
    with pytest.raises(UsageError, match=r"the task has training data\. Leave data-free out"):
        arranged(tiny.tiny(), tiny.task(), None, "auto")
    with pytest.raises(UsageError, match=r"data-free, Finetune: .*got teacher='self'"):
        arranged(tiny.tiny(), bare(), Recipe([Finetune(teacher="self", ema=0.9)]), "auto")


def test_killed_after_the_synthesis_it_is_not_made_again(
    run: Callable[..., lissom.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = DataFree(synthesis=Synthesis(updates=3, batch_size=32), examples=64)
    recipe = Recipe([Fold(), Quantize()])
    with monkeypatch.context() as broken:
        broken.setattr(measuring, "_memory", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(task=bare(), recipe=recipe, data_free=how)
    monkeypatch.setattr(datafree, "make_up", lambda *_, **__: pytest.fail("made again"))
    record = run(task=bare(), recipe=recipe, data_free=how).record
    assert record.before.metric is not None
    assert (record.before.metric.name, record.before.metric.value) == ("agreement", 1.0)
    assert record.before.metric.samples == round(0.2 * 64)


def test_made_up_data_are_the_same_for_the_same_seed() -> None:
    how = DataFree(synthesis=Synthesis(updates=3, batch_size=32), examples=40)
    model, plan = tiny.tiny(), arranged(tiny.tiny(), bare(), None, how)
    first, again, other = (supplied(model, bare(), plan, seed=seed) for seed in (0, 0, 1))
    inputs = [next(task.batches("calibration")).args[0] for task, _ in (first, again, other)]
    assert torch.equal(inputs[0], inputs[1])
    assert not torch.equal(inputs[0], inputs[2])
    assert first[1] == again[1]
