"""The examples do what their first paragraph says."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import lissom
from lissom import demo_project
from lissom.errors import ProjectError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def digits(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("digits")


@pytest.fixture(scope="module")
def built(digits: ModuleType) -> tuple[nn.Module, lissom.Task]:
    return digits.build()


@pytest.fixture(scope="module")
def cifar(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("cifar10_resnet")


def accuracy(model: nn.Module, batches: lissom.data.Batches) -> float:
    with torch.no_grad():
        hits = torch.cat([model(x).argmax(1) == y for x, y in batches])
    return hits.double().mean().item()


# Digits -----------------------------------------------------------------------------------------------------


def test_digits_scores_and_has_the_size_it_says(digits: ModuleType, built: tuple[nn.Module, lissom.Task]) -> None:
    model, task = built
    assert not model.training
    assert accuracy(model, task.test) >= 0.975
    count = sum(p.numel() for p in model.parameters())
    assert f"{count:,} parameters" in (digits.DigitsNet.__doc__ or "")
    assert model(*task.example_inputs).shape == (1, 10)


def test_digits_splits_are_stratified_and_disjoint(built: tuple[nn.Module, lissom.Task]) -> None:
    _, task = built
    parts = [torch.cat([y for _, y in part]) for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [1150, 288, 359]
    for part in parts:
        counts = torch.bincount(part, minlength=10) / len(part)
        assert float((counts - 0.1).abs().max()) < 0.01


def test_digits_is_deterministic_and_leaves_the_global_generator_alone(digits: ModuleType) -> None:
    state = torch.random.get_rng_state()
    first, _ = digits.build(seed=3, epochs=1)
    torch.rand(7)
    torch.random.set_rng_state(state)
    again, _ = digits.build(seed="3", epochs="1")
    assert torch.equal(torch.random.get_rng_state(), state)
    other, _ = digits.build(seed=4, epochs=1)
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.linear.weight, other.linear.weight)


def test_digits_without_scikit_learn_names_the_extra(digits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ProjectError, match=r'scikit-learn: pip install "lissom\[data\]"'):
        digits.build()


def test_the_demo_is_the_example() -> None:
    assert demo_project.path().read_bytes() == (EXAMPLES / "digits.py").read_bytes()
    model, task = demo_project.build(epochs=1)
    assert type(model).__name__ == "DigitsNet"
    assert task.name == "digits"


def test_a_demo_that_was_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_project, "__file__", str(tmp_path / "a" / "b" / "demo_project.py"))
    with pytest.raises(ProjectError, match=r"is neither .*_digits\.py nor .*digits\.py\. Install Lissom again"):
        demo_project.build()


# CIFAR-10 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85)])
def test_resnets_have_the_published_size(cifar: ModuleType, depth: int, millions: float) -> None:
    n = (depth - 2) // 6
    convolutions = 27 * 16 + 9 * (2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
    normalizations = 2 * (16 + 2 * n * (16 + 32 + 64))
    count = sum(p.numel() for p in cifar.ResNet(depth).parameters())
    assert count == convolutions + normalizations + 64 * 10 + 10
    assert round(count / 1e6, 2) == millions


def test_a_shrinking_shortcut_takes_every_second_pixel_and_pads_channels(cifar: ModuleType) -> None:
    block = cifar.Block(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


@pytest.fixture
def folders(cifar: ModuleType, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        cells = []
        for _ in range(count):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
            cells.append({"bytes": stream.getvalue()})
        table = pa.table({"image": cells, "label": [row % 10 for row in range(count)]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    save_file(cifar.ResNet(20).state_dict(), tmp_path / "resnet20-cifar10.safetensors")
    return tmp_path


def test_cifar_builds_from_folders_given_as_text(cifar: ModuleType, folders: Path) -> None:
    model, task = cifar.build(data=str(folders), weights=str(folders), depth="20", batch_size="16")
    assert not model.training
    assert model(*task.example_inputs).shape == (1, 10)
    sizes = {name: sum(len(y) for _, y in getattr(task, name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 36, "validation": 4, "test": 20}
    assert task.train.augment is not None
    assert task.calibration.augment is None


def test_cifar_without_its_folders_says_what_to_give(cifar: ModuleType, folders: Path) -> None:
    with pytest.raises(ProjectError, match=r"data is not given: the folder that holds train\.parquet and test\.parq"):
        cifar.build()
    with pytest.raises(ProjectError, match=r"weights is not given: .* resnet56-cifar10\.safetensors"):
        cifar.build(data=folders, depth=56)
    with pytest.raises(ProjectError, match=r"there is no file .*resnet56-cifar10\.safetensors"):
        cifar.build(data=folders, weights=folders, depth=56)
    with pytest.raises(ProjectError, match=r"depth=21: these networks have 6 n \+ 2 layers"):
        cifar.build(depth=21)
    with pytest.raises(ProjectError, match="depth='deep' is not a whole number"):
        cifar.build(depth="deep")


def test_cifar_refuses_weights_of_another_network(cifar: ModuleType, folders: Path) -> None:
    file = folders / "resnet20-cifar10.safetensors"
    with pytest.raises(ProjectError, match=r"does not fit a ResNet-8: it lacks nothing and has layer1\.1\."):
        cifar.build(data=folders, weights=file, depth=8)
    with pytest.raises(ProjectError, match=r"does not fit a ResNet-32: it lacks layer1\.3\."):
        cifar.build(data=folders, weights=file, depth=32)
    save_file(cifar.ResNet(20, classes=100).state_dict(), file)
    with pytest.raises(ProjectError, match=r"(?s)does not hold a ResNet-20: .*size mismatch for linear\.weight"):
        cifar.build(data=folders, weights=file)
    file.write_bytes(b"not weights")
    with pytest.raises(ProjectError, match="does not hold a ResNet-20: "):
        cifar.build(data=folders, weights=file)
