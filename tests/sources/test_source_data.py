"""Images for models that are no project file: splits, preprocessing, what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lissom
from lissom.commands.shared import settings_of
from lissom.errors import DataError, UsageError
from lissom.project import load_project
from lissom.sources.examples import with_data
from lissom.sources.opened import Opened
from lissom.sources.settings import SourceSettings
from lissom.task import Task

Image = pytest.importorskip("PIL.Image")

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)).eval()
TASK = Task(example_inputs=(torch.zeros(1, 3, 8, 8),))


def images(root: Path, classes: str = "abc", count: int = 10) -> Path:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((10, 12, 3), 20 * number + index, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:02}.png")
    return root


def given(data: object, model: nn.Module = MODEL, **more: object) -> Task:
    return with_data(Opened(model, TASK), SourceSettings(data=data, **more))


def test_one_folder_is_split_and_scaled(tmp_path: Path) -> None:
    task = given(str(images(tmp_path)), mean="0.5", std="0.25,0.5,1")
    x, y = zip(*task.validation, strict=True)
    assert sorted(torch.cat(y).tolist()) == [0, 1, 2]
    sizes = {name: sum(b.size for b in task.batches(name)) for name in ("train", "validation", "test")}
    assert sizes == {"train": 24, "validation": 3, "test": 3}
    assert x[0].shape[1:] == (3, 8, 8)
    value = x[0][0, :, 0, 0] * torch.tensor([0.25, 0.5, 1.0]) + 0.5
    torch.testing.assert_close(value, value[0].expand(3))  # the image is grey
    assert task.loss is not None


def test_splits_on_disk_are_kept(tmp_path: Path) -> None:
    images(tmp_path / "train", count=4)
    images(tmp_path / "val", classes="ac", count=2)
    task = given(tmp_path)
    assert sum(b.size for b in task.batches("validation")) == 4
    assert torch.cat([b.target for b in task.batches("validation")]).tolist() == [0, 0, 2, 2]


def test_parquet_is_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = images(tmp_path / "images")
    rows = [(path.read_bytes(), "abc".index(path.parent.name)) for path in sorted(folder.rglob("*.png"))]
    table = pyarrow.table({"img": [r[0] for r in rows], "class": [r[1] for r in rows]})
    parquet.write_table(table, tmp_path / "test.parquet")
    task = given(tmp_path, image="img", label="class", limit=6)
    assert not task.has("train")
    assert [b.target.tolist() for b in task.batches("test")] == [[0, 0, 1, 1, 2, 2]]


def test_batches_of_ones_own(tmp_path: Path) -> None:
    data = [(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))]
    assert given(data).calibration is data
    assert given({"train": data}).train is data
    with pytest.raises(UsageError, match=r"split 'trian'\. Did you mean 'train'"):
        given({"trian": data})
    with pytest.raises(DataError, match=r"\(3, 4, 4\).*the model takes \[\(3, 8, 8\)\]"):
        given([(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))])


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    folder = images(tmp_path / "two", classes="ab", count=2)
    with pytest.raises(DataError, match=r"model has 3 classes, the train data 2 \(a, b\)"):
        given(folder)
    with pytest.raises(UsageError, match="no folder"):
        given(tmp_path / "absent")
    with pytest.raises(UsageError, match="size=4x5 does not fit the model, which takes 8x8"):
        given(folder, size="4x5")
    with pytest.raises(UsageError, match="read as images"):
        with_data(Opened(MODEL, Task(example_inputs=(torch.zeros(1, 5),))), SourceSettings(data=folder))
    with pytest.raises(UsageError, match="std must be above 0"):
        SourceSettings.parse({"std": "0"}, "x")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's older exporter
def test_the_command_lines_data_is_a_setting(tmp_path: Path) -> None:
    assert settings_of(["limit=3"], "images") == {"limit": "3", "data": "images"}
    with pytest.raises(UsageError, match="both given"):
        settings_of(["data=a"], "b")
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), tmp_path / "m.onnx", dynamo=False)
    _, task = load_project(tmp_path / "m.onnx", {"data": str(images(tmp_path / "images")), "limit": "20"})
    assert task.name == "m"
    assert sum(b.size for b in task.batches("train")) == 16
    assert lissom.source(tmp_path / "m.onnx")[1].validation is None
