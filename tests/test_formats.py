"""Files of format 1, written by version 0.1.0, are read for as long as format 1 is: nothing here is ever made anew.

`python tests/test_formats.py FOLDER` is how they were written. A later format gets folders of its own beside these.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lissom
from lissom import Factorize, Finetune, Fold, Prune, Quantize, Recipe, Sparsify
from lissom.errors import LissomError, RunFolderError
from lissom.export.base import digest
from lissom.pipeline import read_result, remeasure
from lissom.report.html import render
from lissom.runfolder import read_manifest, verify

DATA = Path(__file__).parent / "data" / "format-1"
RECIPES = {
    "pruned": Recipe(
        [
            Fold(),
            Prune(ratio=0.25, criterion="magnitude", normalization="mean"),
            Finetune(epochs=1),
            Quantize(samples=32),
        ]
    ),
    "factorized": Recipe(
        [Fold(), Factorize(rank=2, round_to=1, break_even="parameters"), Sparsify(), Quantize(mode="dynamic")]
    ),
}


class Golden(nn.Module):
    """`(b, 1, 8, 8)` to `(b, 4)`, with weights from a formula, so that no generator has to stay as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        for number, (name, value) in enumerate(self.state_dict().items()):
            if value.is_floating_point() and "running_var" not in name:
                value.copy_(torch.arange(value.numel()).mul(7 + number).remainder(23).sub(11).div(23).view(value.shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.features(x).mean((2, 3)))))


def inputs(count: int) -> Tensor:
    return torch.arange(count * 64).mul(13).remainder(29).sub(14).div(14.0).view(count, 1, 8, 8)


def make(folder: Path) -> None:
    """Write the golden runs."""
    x = inputs(64)
    loader = DataLoader(TensorDataset(x, torch.arange(64) % 4), 16)
    task = lissom.Task(
        example_inputs=(x[:4],), train=loader, validation=loader, test=loader,
        loss=nn.functional.cross_entropy, metric=lissom.metrics.accuracy, name="golden",
    )  # fmt: skip
    for name, recipe in RECIPES.items():
        result = lissom.compress(
            Golden().eval(), task, target="onnxruntime", recipe=recipe, out=folder / name,
            goal=lissom.Goal(metric_drop=0.5, size_ratio=1.1), threads=1,
        )  # fmt: skip
        result.report.unlink()  # megabytes of page that no one reads back
        altered(folder / name, "manifest.json", lambda data: data["files"].pop("report.html"))


@pytest.fixture(params=RECIPES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


def test_every_file_is_as_it_was_written(golden: Path) -> None:
    manifest = verify(golden)
    assert manifest.format == 1
    assert {path.name for path in golden.iterdir()} == {*manifest.files, "manifest.json"}


def test_results_are_read_and_shown(golden: Path) -> None:
    record = read_result(golden)
    assert record.format == 1
    assert record.name == "golden"
    assert [wish.wish for wish in record.goal]
    assert [step.transform for step in record.steps] == [step.name for step in RECIPES[golden.name].steps]
    assert "golden" in render([record])


def test_no_field_of_a_result_has_gone(golden: Path) -> None:
    held = json.loads((golden / "result.json").read_text())
    read = read_result(golden).model_dump(mode="json")
    assert not [path for path in _paths(held) if path not in set(_paths(read))]


def test_recipes_are_read(golden: Path) -> None:
    assert Recipe.read(golden / "recipe.yaml").title == RECIPES[golden.name].title


def test_plans_and_weights_are_carried_out_on_a_fresh_original(golden: Path) -> None:
    model = lissom.load(golden, Golden().eval())
    found = model(inputs(4))
    (expected,) = json.loads((DATA / "outputs.json").read_text())[golden.name]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-4)


@pytest.mark.slow
def test_artifacts_are_measured_again(golden: Path) -> None:
    assert [row.model for row in remeasure([golden], threads=1, rounds=3)] == ["original", "compressed"]


@pytest.mark.parametrize("name", ["result.json", "manifest.json"])
@pytest.mark.parametrize("number", [2, 0, "1", None, 10**6])
def test_a_format_of_the_future_is_refused_with_the_way_out(golden: Path, name: str, number: object) -> None:
    altered(golden, name, lambda data: data.update(format=number))
    with pytest.raises(RunFolderError, match=rf"{name} is of format .*reads format 1\. Use the Lissom that made it"):
        read_result(golden)


# What others may have done to a folder whose hashes fit: an error of Lissom's with the file, or a model.


def altered(folder: Path, name: str, change: Any) -> None:
    """Change a file's JSON, and its hash with it, as someone who means harm would."""
    data = json.loads((folder / name).read_text())
    change(data)
    rewritten(folder, name, json.dumps(data).encode())


def rewritten(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    if name == "manifest.json":
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = digest(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def opened_or_refused(folder: Path) -> None:
    """Every way in that runs no artifact."""
    for read in (read_result, read_manifest, verify, lambda place: lissom.load(place, Golden().eval())):
        try:
            read(folder)
        except LissomError as wrong:
            if str(folder) not in str(wrong) or len(str(wrong)) > 3_000:
                pytest.fail(f"names no file, or too much: {wrong}")


FILES = ("result.json", "plan.json", "recipe.yaml", "manifest.json", "model.safetensors", "example.safetensors")
SPOILT = (
    b"", b"{}", b"[]", b"null", b"[[]]", b'"x"', b"\xff\xfe", b"[" * 50_000, b'{"format": 1}', b"- Fold: {}", b"[{}]",
    b"&a [*a]", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"\xff" * 8 + b"{}",
    b'\x40\x00\x00\x00\x00\x00\x00\x00{"w":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}   ',
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_foreign_content_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    golden = Path(shutil.copytree(DATA / "pruned", tmp_path / "pruned"))
    before = (golden / name).read_bytes()
    for content in (*SPOILT, before[: len(before) // 2], before + before):
        rewritten(golden, name, content)
        opened_or_refused(golden)
        rewritten(golden, "manifest.json", (DATA / golden.name / "manifest.json").read_bytes())


def test_plans_that_do_not_fit_are_errors_of_ours(golden: Path) -> None:
    plans = json.loads((golden / "plan.json").read_text())
    places = [path for path in _paths(plans) if path]
    for at, place in enumerate(places[:: max(1, len(places) // 12)]):
        changed = json.loads(json.dumps(plans))
        holder: Any = changed
        for part in place[:-1]:
            holder = holder[part]
        holder[place[-1]] = (-1, 10**12, "../x", None, [], {}, [10**9], 1e308)[at % 8]
        rewritten(golden, "plan.json", json.dumps(changed).encode())
        opened_or_refused(golden)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_is_an_error_of_ours(golden: Path, name: str) -> None:
    content = (golden / name).read_bytes()
    for at in range(0, len(content), max(1, len(content) // 60)):
        rewritten(golden, name, content[:at] + bytes([content[at] ^ (1 + at % 255)]) + content[at + 1 :])
        opened_or_refused(golden)
        rewritten(golden, "manifest.json", (DATA / golden.name / "manifest.json").read_bytes())


def _paths(data: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value lies; all elements of a list of records count, as they may differ in their fields."""
    if isinstance(data, dict):
        return [path, *(inner for name, value in data.items() for inner in _paths(value, (*path, name)))]
    if isinstance(data, list):
        return [path, *(inner for at, value in enumerate(data) for inner in _paths(value, (*path, at)))]
    return [path]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    make(place)
    outputs = {name: [lissom.load(place / name, Golden().eval())(inputs(4)).tolist()] for name in RECIPES}
    (place / "outputs.json").write_text(json.dumps(outputs))
