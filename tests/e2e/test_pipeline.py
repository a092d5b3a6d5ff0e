"""`compress` from the model to the folder: what it makes, what it leaves alone, what it refuses and when."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import lissom
from lissom import Batch, Fold, Goal, Quantize, Recipe
from lissom.errors import DataError, ExportError, GoalError, LissomError, RunFolderError, TargetError, UsageError
from lissom.pipeline import candidates

FOLDER = {
    "example.safetensors",
    "manifest.json",
    "model.onnx",
    "model.safetensors",
    "original.onnx",
    "plan.json",
    "recipe.yaml",
    "report.html",
    "result.json",
}


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# What a run makes


def test_the_folder_holds_what_was_promised(finished: lissom.Result) -> None:
    folder = finished.folder
    assert {p.name for p in folder.iterdir()} == FOLDER
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["files"] == {name: sha256(folder / name) for name in FOLDER - {"manifest.json"}}
    assert manifest["source"]["seed"] == 0
    assert Recipe.read(folder / "recipe.yaml") == tiny.RECIPE
    plans = json.loads((folder / "plan.json").read_text())
    assert [plan["transform"] for plan in plans] == ["Fold", "Quantize"]
    assert {name: tuple(value.shape) for name, value in load_file(folder / "model.safetensors").items()} == {
        name: tuple(value.shape) for name, value in finished.model.state_dict().items()
    }
    page = finished.report.read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "bars" in page


def test_result_json_has_the_stable_fields(finished: lissom.Result) -> None:
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["format"] == 1
    assert result["target"] == "onnxruntime"
    assert result["seed"] == 0
    for side in ("before", "after"):
        one = result[side]
        assert one["metric"]["name"] == "accuracy"
        assert one["metric"]["split"] == "test"
        assert one["metric"]["samples"] == 200
        assert 0.9 < one["metric"]["value"] <= 1
        assert 0 < one["latency_ms"]["low"] <= one["latency_ms"]["median"] <= one["latency_ms"]["high"]
        assert one["batch_size"] == 16
        assert one["macs"] == (8 * 9 * 64 + 16 * 8 * 9 * 16 + 64)
        assert one["peak_memory_bytes"] > 0
        assert one["parameters"] > 0
    assert set(result["ratios"]) >= {"size", "latency", "macs", "parameters"}
    assert [set(item) for item in result["goal"]] == [{"wish", "figure", "met", "hard"}] * 2
    assert [step["transform"] for step in result["steps"]] == ["Fold", "Quantize"]
    assert all(step["seconds"] > 0 and step["metric"]["split"] == "validation" for step in result["steps"])
    assert isinstance(result["skipped"], list)
    assert {"cpu", "cores", "threads", "versions"} <= set(result["environment"])
    assert "Infinity" not in (text := (finished.folder / "result.json").read_text())
    assert "NaN" not in text


def test_sizes_are_those_of_the_files(finished: lissom.Result) -> None:
    before, after = (finished.folder / name for name in ("original.onnx", "model.onnx"))
    assert finished.before.size_bytes == before.stat().st_size
    assert finished.after.size_bytes == after.stat().st_size
    assert finished.ratios.size == pytest.approx(before.stat().st_size / after.stat().st_size)
    assert finished.before.parameters == sum(p.numel() for p in tiny.tiny().parameters())


@pytest.mark.parametrize(("side", "file"), [("before", "original.onnx"), ("after", "model.onnx")])
def test_the_metric_is_that_of_the_artifact(finished: lissom.Result, side: str, file: str) -> None:
    x, y = tiny.bars(200, 3)
    (logits,) = session_of(finished.folder / file).run(None, {finished.artifact.inputs[0].name: x.numpy()})
    metric = getattr(finished, side).metric
    assert metric.value == pytest.approx(float(np.mean(logits.argmax(1) == y.numpy())), abs=1e-12)


def test_the_model_is_what_the_artifact_computes(finished: lissom.Result) -> None:
    x, _ = tiny.bars(64, 9)
    with torch.no_grad():
        simulated = finished.model(x).numpy()
    (measured,) = session_of(finished.folder / "model.onnx").run(None, {finished.artifact.inputs[0].name: x.numpy()})
    step = np.ptp(simulated) / 255
    assert np.abs(simulated - measured).max() <= 2 * step
    assert finished.record.parity is not None
    assert finished.record.parity.max_steps < 2


def test_load_gives_the_same_model_on_a_fresh_original(finished: lissom.Result) -> None:
    x, _ = tiny.bars(32, 9)
    original = tiny.tiny()
    loaded = lissom.load(finished.folder, original)
    with torch.no_grad():
        assert torch.equal(loaded(x), finished.model(x))
        assert torch.equal(original(x), tiny.tiny()(x))


def test_load_refuses_another_model_and_other_weights(finished: lissom.Result) -> None:
    other = tiny.tiny()
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    for model in (other, nn.Linear(4, 4)):
        with pytest.raises(RunFolderError, match=r"was made from another model.*same class and weights"):
            lissom.load(finished.folder, model)
    with pytest.raises(RunFolderError, match=r"is not a run folder"):
        lissom.load(finished.folder.parent, tiny.tiny())


def test_the_same_call_again_reads_the_finished_run(finished: lissom.Result) -> None:
    shown: list[tuple[float, str]] = []
    again = lissom.compress(
        tiny.tiny(),
        tiny.task(),
        target="onnxruntime",
        recipe=tiny.RECIPE,
        goal=Goal(metric_drop=0.05, macs_ratio=1.0),
        out=finished.folder,
        batch_size=16,
        threads=1,
        progress=lambda share, label: shown.append((share, label)),
    )
    assert again.record == finished.record
    assert shown == [(1.0, "already finished")]
    x, _ = tiny.bars(8, 9)
    with torch.no_grad():
        assert torch.equal(again.model(x), finished.model(x))


def test_the_artifact_runs_where_there_is_no_lissom(finished: lissom.Result) -> None:
    code = (
        "import sys, numpy, onnxruntime\n"
        "s = onnxruntime.InferenceSession(sys.argv[1])\n"
        "x = numpy.zeros((3, 1, 8, 8), numpy.float32)\n"
        "print(s.run(None, {s.get_inputs()[0].name: x})[0].shape, 'lissom' in sys.modules, 'torch' in sys.modules)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(finished.folder / "model.onnx")], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "(3, 4) False False"


@pytest.mark.parametrize("target", ["openvino", "torch", "executorch"])
def test_every_other_runtime(run, target: str) -> None:
    if target != "torch":
        pytest.importorskip(target)
    result = run(target=target, recipe=tiny.RECIPE, goal=Goal(metric_drop=0.05))
    assert result.goal_met
    assert result.record.target == target
    assert all((result.folder / name).is_file() for name in result.artifact.files)
    x, _ = tiny.bars(8, 9)
    with torch.no_grad():
        assert torch.equal(lissom.load(result.folder, tiny.tiny())(x), result.model(x))


# Without a recipe, without a target


def test_without_a_recipe_the_candidates_are_tried_and_one_is_chosen(run) -> None:
    shares: list[float] = []
    result = run(
        recipe=None,
        goal=Goal(metric_drop=0.05, size_ratio=5),
        progress=lambda share, _: shares.append(share),
    )
    assert not result.goal_met
    assert [item.met for item in result.goal] == [True, False]
    trials = result.record.trials
    assert len(trials) >= 2
    assert [trial.chosen for trial in trials].count(True) == 1
    assert all(trial.metric is not None and trial.latency_ms is not None for trial in trials)
    chosen = next(trial for trial in trials if trial.chosen)
    assert chosen.recipe == Recipe.from_data(result.record.recipe).title
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert not (result.folder / "state").exists()


def test_auto_tries_the_runtimes_that_are_here(run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    found = {name: one for name, one in candidates.survey().items() if name in ("onnxruntime", "openvino", "torch")}
    monkeypatch.setattr(candidates, "survey", lambda: found)
    result = run(target="auto")
    assert {trial.target for trial in result.record.trials} == {"onnxruntime", "openvino"}
    fastest = min(result.record.trials, key=lambda trial: trial.latency_ms or 0)
    assert result.record.target == fastest.target


# Tasks with less, models with more


@pytest.mark.parametrize("recipe", [Recipe([Fold()]), Recipe([Fold(), Quantize(mode="dynamic")])], ids=["fold", "dyn"])
def test_data_free_recipes_need_the_example_alone(quick: None, tmp_path: Path, recipe: Recipe) -> None:
    task = lissom.Task(example_inputs=(tiny.bars(2, 5)[0],))
    result = recipe.run(tiny.tiny(), task, out=tmp_path / "run")
    assert result.before.metric is None
    assert result.goal == ()
    assert result.goal_met
    assert any("No metric was measured" in note for note in result.record.notes)
    assert result.before.batch_size == 2


def test_a_recipe_that_needs_data_says_so_before_anything_is_written(run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Quantize needs calibration data.*mode='dynamic'"):
        run(task=lissom.Task(example_inputs=(tiny.bars(1, 5)[0],)), recipe=tiny.RECIPE)
    assert not (tmp_path / "run").exists()


def test_without_a_test_split_the_report_says_that_validation_chose(run) -> None:
    result = run(task=tiny.task(test=None))
    assert result.after.metric.split == "validation"
    assert any("which also served to choose" in note for note in result.record.notes)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = (self.embed(ids) * mask[..., None]).sum(1)
        return {"logits": self.fc(hidden), "hidden": hidden}


def test_keyword_inputs_and_a_dict_of_outputs(run) -> None:
    torch.manual_seed(0)
    model = Named()
    batches = [
        {
            "ids": torch.randint(10, (6, 5)),
            "mask": torch.ones(6, 5),
            "labels": torch.randint(3, (6,)),
        }
        for _ in range(3)
    ]
    example = {name: value[:1] for name, value in batches[0].items() if name != "labels"}
    task = lissom.Task(
        example_kwargs=example, calibration=batches, validation=batches, test=batches, metric=lissom.metrics.accuracy
    )
    result = run(model, task, recipe=Recipe([Quantize()]))
    assert {spec.name for spec in result.artifact.inputs} == {"ids", "mask"}
    outputs = lissom.load(result.folder, model)(**example)
    assert set(outputs) == {"logits", "hidden"}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.relu(self.a(x) + self.b(y)))


def test_two_inputs(run) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(7, 6), torch.randn(7, 4), torch.randint(3, (7,))) for _ in range(3)]
    task = lissom.Task(
        example_inputs=(torch.randn(1, 6), torch.randn(1, 4)),
        train=batches,
        test=batches,
        metric=lissom.metrics.accuracy,
    )
    result = run(Two(), task, recipe=Recipe([Quantize()]))
    assert len(result.artifact.inputs) == 2
    assert result.after.metric.samples == 21


# What is left alone


def test_the_original_and_the_process_are_left_as_they_were(run) -> None:
    model = tiny.tiny()
    model.train()
    model.features[1].eval()  # a frozen normalization
    model.head.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    random, numbers = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    process = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    result = run(model, recipe=tiny.RECIPE)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert not model.head.weight.requires_grad
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == process
    mine = {value.data_ptr() for value in model.state_dict().values()}
    assert not mine & {value.data_ptr() for value in result.model.state_dict().values()}


# What is refused, and when


def generator() -> Iterator[tuple[Tensor, Tensor]]:
    yield tiny.bars(4, 1)


NAN = [tiny.bars(8, 1), (torch.full((8, 1, 8, 8), float("nan")), torch.zeros(8, dtype=torch.long))]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train": []}, r"Task\(train=\.\.\.\) yielded no batch: the loader is empty"),
        ({"train": generator()}, r"Task\(train=\.\.\.\) is a one-shot iterator \(generator\)"),
        ({"train": NAN}, r"batch 1 of Task\(train=\.\.\.\) holds 512 NaN or infinite"),
        ({"train": [(torch.zeros(4, 3, 8, 8), torch.zeros(4))]}, r"batch does not fit the model"),
        ({"train": [(torch.zeros(4, 1, 8, 8, dtype=torch.float64), torch.zeros(4))]}, r"does not fit the model"),
        ({"train": [{"x": 1}]}, r"holds no input tensor"),
        ({"validation": []}, r"Task\(validation=\.\.\.\) yielded no batch"),
        ({"validation": NAN}, r"batch 1 of Task\(validation=\.\.\.\) holds 512 NaN"),
        ({"metric": lambda outputs, targets: None}, r"metric 'metric' returned None, not a finite number"),
        ({"metric": lambda outputs, targets: "good"}, r"returned 'good', not a finite number"),
        ({"metric": lambda outputs, targets: float("nan")}, r"returned nan, not a finite number"),
        ({"metric": 3}, r"A metric is a lissom\.metrics\.Metric or a function"),
        ({"test": []}, r"Task\(test=\.\.\.\) yielded no batch"),
    ],
)
def test_unusable_data_is_named(run, changed: dict[str, object], said: str) -> None:
    with pytest.raises(LissomError, match=said):
        run(task=tiny.task(**changed), recipe=tiny.RECIPE)


def test_weights_that_are_not_finite(run, tmp_path: Path) -> None:
    for name, value in (("head.weight", float("nan")), ("features.1.running_var", float("inf"))):
        model = tiny.tiny()
        model.state_dict()[name].view(-1)[0] = value
        with pytest.raises(DataError, match=rf"weight '{name}' holds NaN or infinite values"):
            run(model)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"target": "tensorrt"}, TargetError, r"is not available here"),
        ({"target": "onnxruntmie"}, TargetError, r"Unknown target 'onnxruntmie'. Did you mean 'onnxruntime'"),
        ({"goal": Goal(size_bytes=10)}, GoalError, r"less than an empty model file"),
        ({"goal": Goal(size_ratio=1e6)}, GoalError, r"less than an empty model file"),
        ({"goal": Goal(macs_ratio=1e9)}, GoalError, r"leaves less than one"),
        ({"goal": Goal(metric_drop=0.01), "task": tiny.task(metric=None)}, GoalError, r"no metric was measured"),
        ({"goal": 0.1}, UsageError, r"goal must be a lissom\.Goal, got float"),
        ({"recipe": [Fold()]}, UsageError, r"recipe must be a lissom\.Recipe, got list"),
        ({"model": tiny.Tiny}, UsageError, r"takes a Module as its model, got type"),
        ({"task": (1,)}, UsageError, r"takes a Task as its task, got tuple"),
        ({"batch_size": 0}, UsageError, r"batch_size and threads must be at least 1, got 0"),
        ({"threads": 0}, UsageError, r"must be at least 1, got .* and 0"),
        ({"budget": "soon"}, UsageError, r"budget 'soon' is not a time\. Write 90s, 10min or 1h"),
        ({"budget": "-3s"}, UsageError, r"must be a positive time"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    run, tmp_path: Path, changed: dict[str, object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        run(**changed)
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    """Has the same weights whether it exports or not."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        if not self.fixed and x.sum() > 0:  # the value decides
            return self.fc(x)
        return -self.fc(x)


def test_a_model_that_does_not_export_names_the_line_and_leaves_the_folder_free(run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    broken = Branching(fixed=False)
    task = lissom.Task(example_inputs=(torch.ones(1, 4),))
    with pytest.raises(ExportError, match=r"test_pipeline\.py.*\n?.*x\.sum\(\) > 0|test_pipeline\.py:\d+"):
        run(broken, task)
    assert list(tmp_path.iterdir()) == []
    fixed = Branching(fixed=True)
    fixed.load_state_dict(broken.state_dict())
    assert run(fixed, task).goal_met


def test_code_that_changed_since_is_seen(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)

    class Changing(nn.Module):
        sign = 1

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if self.sign > 0 else torch.tanh(self.fc(x))

    model, task = Changing(), lissom.Task(example_inputs=(torch.ones(1, 4),))
    with monkeypatch.context() as patch:
        patch.setattr("lissom.pipeline.compressing.measure", _stopped)
        with pytest.raises(KeyboardInterrupt):
            run(model, task)
    Changing.sign = -1
    result = run(model, task)
    x = torch.randn(3, 4)
    (measured,) = session_of(result.folder / "model.onnx").run(None, {result.artifact.inputs[0].name: x.numpy()})
    assert np.allclose(measured, model(x).detach().numpy(), atol=1e-5)
    Changing.sign = 1
    with pytest.raises(RunFolderError, match=r"same weights and another forward\(\)"):
        run(model, task)


def _stopped(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_without_out_the_run_is_in_a_fresh_temporary_folder(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(GoalError):
        run(out=None, goal=Goal(size_bytes=10))
    assert list(tmp_path.iterdir()) == []
    task = lissom.Task(example_inputs=(torch.ones(1, 4),))
    result = run(nn.Sequential(nn.Linear(4, 2)), task, out=None)
    assert result.folder.parent == tmp_path
    assert result.report.is_file()


@pytest.mark.parametrize("name", sorted(FOLDER - {"manifest.json"}))
def test_a_truncated_file_is_never_used(finished: lissom.Result, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in finished.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / name).write_bytes((copy / name).read_bytes()[:-7])
    with pytest.raises(RunFolderError, match=rf"{name} is truncated or altered"):
        lissom.load(copy, tiny.tiny())
    with pytest.raises(RunFolderError, match=rf"{name} is truncated or altered"):
        lissom.pipeline.remeasure([copy])
    if name == "result.json":
        with pytest.raises(RunFolderError, match=r"result\.json is truncated or altered"):
            lissom.pipeline.read_result(copy)


def test_a_batch_is_a_batch() -> None:
    assert Batch((torch.zeros(3, 2),)).size == 3
