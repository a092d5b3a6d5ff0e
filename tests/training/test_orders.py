"""No training with channels last where PyTorch would damage memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loops import task
from torch import nn

from lissom.errors import RecipeError
from lissom.graph.trace import trace
from lissom.task import Batch
from lissom.training import pace
from lissom.training.objective import supervised
from lissom.training.orders import VECTOR, crashes_channels_last
from lissom.training.pace import pace_of
from lissom.training.settings import Training


def shortcut(inputs: int, kernel: int = 1, stride: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, inputs, 3, padding=1), nn.Conv2d(inputs, 8, kernel, stride), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def batch() -> Batch:
    return Batch((torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),), {}, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("model", "crashes"),
    [
        (shortcut(6), True),
        (shortcut(VECTOR), False),
        (shortcut(6, kernel=3), False),
        (shortcut(6, stride=1), False),
        (nn.Sequential(nn.Conv2d(3, 6, 1, (1, 2))), True),
        (nn.Linear(3, 6), False),
    ],
)
def test_few_inputs_a_stride_and_one_pixel_crash(model: nn.Module, crashes: bool) -> None:
    given = batch() if not isinstance(model, nn.Linear) else Batch((torch.zeros(2, 3),), {}, torch.tensor([0, 1]))
    assert crashes_channels_last(model, given) is crashes
    traced = trace(model, given).module
    assert crashes_channels_last(traced, given) is crashes


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1, 2), nn.BatchNorm2d(6)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert crashes_channels_last(model, batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_is_not_tried_and_refused_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Any, *_: Any) -> float:
        return 0.1 if self.pace.channels_last else 1.0

    monkeypatch.setattr(pace._Runner, "step", step)
    given = task([(batch().args[0], batch().target)] * 2)

    def chosen(model: nn.Module, **settings: Any) -> bool:
        return pace_of(model, given, Training(**settings), supervised, folder=None, seed=0).channels_last

    assert chosen(shortcut(VECTOR))
    assert not chosen(shortcut(6))
    assert chosen(shortcut(VECTOR), channels_last=True)
    with pytest.raises(RecipeError, match=r"channels_last=True.*round_to=16"):
        chosen(shortcut(6), channels_last=True)
