"""The detector example, on shapes drawn here: boxes, loss and metric against numbers worked out by hand or in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from benchmarks.shapes import draw
from torch import Tensor

import lissom
from lissom.errors import ProjectError
from lissom.pipeline.transforming import transform
from lissom.target import load_target

SIZE = 64


@pytest.fixture(scope="module")
def detector(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("detector")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shapes")
    for seed, (name, count) in enumerate((("train", 16), ("validation", 8), ("test", 8))):
        draw(path / name, count, seed, SIZE)
    return path


def said(detector: ModuleType, boxes: list[tuple[int, float, tuple[float, float, float, float]]]) -> Tensor:
    """Outputs `(1, cells, 4 + 2)` of a model that is `sure` of one class in the cell nearest to each box's centre."""
    centres, strides = detector.cells(SIZE)
    outputs = torch.zeros(1, len(centres), 6)
    outputs[..., 4:] = -20.0
    for kind, sure, corners in boxes:
        low, high = torch.tensor(corners[:2]), torch.tensor(corners[2:])
        cell = int((centres - (low + high) / 2).abs().sum(1).argmin())
        reach = torch.cat([centres[cell] - low, high - centres[cell]])
        outputs[0, cell, :4] = (reach / strides[cell]).log()
        outputs[0, cell, 4 + kind] = float(np.log(sure / (1 - sure)))
    return outputs


def truth(detector: ModuleType, rows: list[tuple[float, ...]]) -> Tensor:
    targets = torch.full((1, detector.MOST, 5), -1.0)
    targets[0, : len(rows)] = torch.tensor(rows)
    return targets


def test_boxes_come_back_from_what_the_outputs_mean(detector: ModuleType) -> None:
    outputs = said(detector, [(1, 0.9, (4.0, 8.0, 30.0, 20.0))])
    cell = int(outputs[0, :, 5].argmax())
    assert torch.allclose(detector.boxes_of(outputs, SIZE)[0, cell], torch.tensor([4.0, 8.0, 30.0, 20.0]), atol=1e-4)
    assert detector.side(outputs) == SIZE


def test_overlap_is_the_share_of_pixels(detector: ModuleType) -> None:
    chance = np.random.default_rng(0)
    for _ in range(20):
        one, other = (
            np.sort(chance.integers(0, 40, (2, 2)), axis=0).reshape(4) + np.array([0, 0, 1, 1]) for _ in range(2)
        )
        grids = np.zeros((2, 48, 48), dtype=bool)
        for grid, (left, top, right, bottom) in zip(grids, (one, other), strict=True):
            grid[top:bottom, left:right] = True
        union, (y, x) = (grids[0] | grids[1]).sum(), np.nonzero(grids[0] | grids[1])
        hull = (np.ptp(y) + 1) * (np.ptp(x) + 1)
        iou = (grids[0] & grids[1]).sum() / union
        found = detector.overlap(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64))
        assert [float(v) for v in found] == pytest.approx([iou, iou - (hull - union) / hull])


def test_precision_is_the_area_that_was_worked_out_by_hand(detector: ModuleType) -> None:
    first, second, nowhere = (4.0, 4.0, 28.0, 28.0), (36.0, 36.0, 60.0, 60.0), (36.0, 4.0, 60.0, 28.0)
    targets = truth(detector, [(0, *first), (0, *second)])
    measure = detector.mean_average_precision
    assert measure(said(detector, [(0, 0.9, first), (0, 0.8, second)]), targets) == pytest.approx(1)
    assert measure(said(detector, [(0, 0.9, first)]), targets) == pytest.approx(0.5)
    # Right, wrong, right: precision 1 up to recall 1/2, 2/3 up to 1.
    mixed = said(detector, [(0, 0.9, first), (0, 0.8, nowhere), (0, 0.7, second)])
    assert measure(mixed, targets) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert measure(said(detector, [(1, 0.9, first)]), targets) == 0
    # The second answer for an object counts as wrong, and what overlaps a better answer is not an answer.
    near = (6.0, 4.0, 30.0, 28.0)
    assert measure(said(detector, [(0, 0.9, first), (0, 0.8, near), (0, 0.7, second)]), targets) == pytest.approx(1)


def test_the_loss_is_least_for_the_truth_and_has_gradients(detector: ModuleType) -> None:
    box = (16.0, 16.0, 48.0, 48.0)
    targets = truth(detector, [(1, *box)])
    centres, strides = detector.cells(SIZE)
    right = torch.full((1, len(centres), 6), -20.0)
    right[..., :4] = 0.0
    held = (strides == 16) & ((centres - 32).abs().amax(1) < 24) & ((centres - 32).abs().amax(1) < 16)
    reach = torch.cat([centres - 16.0, 48.0 - centres], 1)[held]
    right[0, held, :4] = (reach / 16).log()
    right[0, held, 5] = 20.0
    assert int(held.sum()) == 4
    assert float(detector.loss(right, targets)) == pytest.approx(0, abs=1e-3)
    wrong = right.clone().requires_grad_()
    with torch.no_grad():
        wrong[0, held, 0] += 0.5
    worse = detector.loss(wrong, targets)
    worse.backward()
    assert worse.item() > 0.1
    assert float(wrong.grad[0, held, 0].min()) > 0, "a side that is too far out is pulled in"


def test_it_learns_and_its_channels_can_be_cut(detector: ModuleType, folder: Path, tmp_path: Path) -> None:
    state, file = torch.random.get_rng_state(), tmp_path / "detector.safetensors"
    model, task = detector.build(folder, file, size=str(SIZE), epochs="2", width="8")
    assert torch.equal(torch.random.get_rng_state(), state)
    again, _ = detector.build(folder, file, size=SIZE, epochs=99, width=8)
    x, targets = next(iter(task.test))
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
        assert float(detector.loss(model(x), targets)) < 20
    bare = lissom.Task(example_inputs=task.example_inputs)
    smaller = transform(model, bare, lissom.Recipe([lissom.Prune(macs_ratio=2)]), load_target("torch"))[-1].model
    assert isinstance(smaller, detector.Detector)
    assert smaller(x).shape == model(x).shape


def test_what_is_missing_is_named(detector: ModuleType, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="data is not given"):
        detector.build()
    with pytest.raises(ProjectError, match="multiple of 32"):
        detector.build(folder, size=100)
    with pytest.raises(ProjectError, match=r"no images/\*\.png"):
        detector.build(tmp_path)
