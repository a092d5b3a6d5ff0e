"""A latency that is measured, not counted: `Prune(latency_ratio=...)` through `compress`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import lissom
from lissom.errors import GoalError, UsageError


def wide() -> tuple[nn.Module, lissom.Task]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)).eval()
    return model, lissom.Task(example_inputs=(torch.randn(2, 3, 24, 24),))


@pytest.mark.slow
def test_the_model_is_cut_until_it_is_fast_enough(tmp_path: Path) -> None:
    model, task = wide()
    recipe = lissom.Recipe([lissom.Prune(latency_ratio=1.3)])
    result = lissom.compress(model, task, recipe=recipe, target="onnxruntime", out=tmp_path / "run", threads=1)
    # How fast it really is depends on what else the machine does; that channels went does not.
    assert result.record.ratios.macs > 1.3
    again = lissom.load(tmp_path / "run", model)
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(again(x), result.model(x))


def test_out_of_reach_is_said() -> None:
    model, task = wide()
    with pytest.raises(GoalError, match="out of reach by cutting channels"):
        lissom.compress(model, task, recipe=lissom.Recipe([lissom.Prune(latency_ratio=1e4)]), target="onnxruntime")


def test_a_dry_run_does_not_measure() -> None:
    model, task = wide()
    with pytest.raises(UsageError, match="which a dry run does not"):
        lissom.plan(model, task, lissom.Recipe([lissom.Prune(latency_ratio=2)]))
