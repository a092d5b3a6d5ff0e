"""Models of timm: names, weights from a file, images prepared as timm prepares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lissom
from lissom.errors import ProjectError, UsageError
from lissom.project import load_project
from lissom.sources import timm_model
from lissom.sources.optional import needed

Image = pytest.importorskip("PIL.Image")
CLASSES = ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        return needed("timm", "this test")
    except UsageError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def weights(timm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, chance = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in CLASSES:
        (root / "test" / name).mkdir(parents=True)
        Image.fromarray(chance.integers(0, 256, (70, 90, 3), np.uint8)).save(root / "test" / name / "a.png")
    return root


def test_weights_from_a_file_and_timms_own_preprocessing(timm: Any, weights: Path, images: Path) -> None:
    model, task = load_project(Path("timm:test_resnet"), {"weights": str(weights), "data": str(images), "size": "64"})
    assert task.name == "test_resnet"
    assert task.classes == CLASSES
    assert "0 cat, 1 dog, 2 eel. The model names none" in task.notes[0]
    (batch,) = task.batches("test")
    change = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model, args={"input_size": (3, 64, 64)}), is_training=False
    )
    own = [change(Image.open(images / "test" / name / "a.png")) for name in CLASSES]
    torch.testing.assert_close(batch.args[0], torch.stack(own))
    expected = timm.create_model("test_resnet", num_classes=3).eval()
    timm.models.load_checkpoint(expected, str(weights))
    torch.testing.assert_close(model(batch.args[0]), expected(batch.args[0]))
    assert not model.training


def test_a_folder_as_timm_writes_it(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    held = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5],
            "label_names": ["x", "y", "z"]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(held))
    model, task = lissom.source(f"timm:{tmp_path}")
    assert task.example_inputs[0].shape == (1, 3, 32, 32)
    assert task.classes == ("x", "y", "z")
    assert model(task.example_inputs[0]).shape == (1, 3)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ProjectError, match=rf"no configuration of timm.*hf:{tmp_path}"):
        lissom.source(f"timm:{tmp_path}")


def test_random_weights_are_said_and_repeat(timm: Any) -> None:
    before = torch.get_rng_state()
    one, task = lissom.source("timm:test_resnet", weights="random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    other, _ = lissom.source("timm:test_resnet", weights="random", seed=3)
    assert "random" in task.notes[0]
    assert len(task.classes) == 1000
    assert task.classes[0] == "n01440764"
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_cannot_be_opened(timm: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProjectError, match=r"timm has no model 'test_resnett'.*Did you mean 'test_resnet'"):
        lissom.source("timm:test_resnett")
    with pytest.raises(ProjectError, match=r"no weights 'r161_in1k' of 'test_resnet'.*'r160_in1k'"):
        lissom.source("timm:test_resnet.r161_in1k")
    with pytest.raises(ProjectError, match=r"does not fit test_vit: .*Missing key"):
        lissom.source("timm:test_vit", weights=weights)
    with pytest.raises(ProjectError, match=r"There is no file"):
        lissom.source("timm:test_resnet", weights=tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ProjectError, match=r"is no file of safetensors"):
        lissom.source("timm:test_resnet", weights=tmp_path / "bad.safetensors")
    with pytest.raises(UsageError, match=r"length=3 means nothing for timm:test_resnet"):
        lissom.source("timm:test_resnet", weights="random", length=3)
    with pytest.raises(UsageError, match=r"size=32x32 does not fit timm:test_vit, which takes 160x160"):
        lissom.source("timm:test_vit", weights="random", size=32)

    def offline(name: str, pretrained: bool) -> None:
        assert pretrained
        raise OSError("An error happened while trying to locate the file on the Hub.\nMore.")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ProjectError, match=r"cannot be fetched: An error .* on the Hub\. Give --weights FILE"):
        lissom.source("timm:test_resnet")


def test_a_library_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_model.needed.__globals__["importlib"].util, "find_spec", lambda name: None)
    for name, package in (("timm:resnet18", "timm"), ("hf:folder", "transformers")):
        with pytest.raises(UsageError, match=rf"{name} needs {package}.*pip install \"lissom\[{package}\]\""):
            lissom.source(name)
