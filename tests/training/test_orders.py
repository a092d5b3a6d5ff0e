"""No training with channels last where PyTorch would damage memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loops import task
from torch import nn

from lissom.errors import RecipeError
from lissom.task import Batch
from lissom.training import pace
from lissom.training.objective import Criterion, supervised
from lissom.training.orders import VECTOR, Watch
from lissom.training.pace import pace_of
from lissom.training.settings import Training

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TASK = task([(X, torch.tensor([0, 1]))] * 2)


def shortcut(inputs: int, kernel: int = 1, stride: int = 2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, inputs, 3, padding=1), nn.Conv2d(inputs, 8, kernel, stride), nn.Dropout(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )  # fmt: skip


def narrow(model: nn.Module, batch: Batch, criterion: Criterion) -> torch.Tensor:
    """As a subnet of a supernet computes: a slice of a wide convolution."""
    assert isinstance(model, nn.Sequential)
    first, second = model[0], model[1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    inner = nn.functional.conv2d(batch.args[0], first.weight[:8], first.bias[:8], padding=1)  # pyright: ignore[reportOptionalSubscript]
    return criterion(nn.functional.conv2d(inner, second.weight[:, :8], second.bias, 2).mean((2, 3)), batch.target)


@pytest.mark.parametrize(
    ("model", "crashes"),
    [
        (shortcut(6), True),
        (shortcut(VECTOR), False),
        (shortcut(6, kernel=3), False),
        (shortcut(6, stride=1), False),
        (nn.Conv2d(3, 6, 1, (1, 2)), True),
        (nn.Conv2d(3, 6, 1, (1, 2)).requires_grad_(requires_grad=False), False),
        (nn.Conv2d(48, 16, 1, 2, groups=16), True),
    ],
)
def test_few_inputs_a_stride_and_one_pixel_crash(model: nn.Module, crashes: bool) -> None:
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    x = torch.randn(2, first.in_channels, 8, 8, requires_grad=True)
    with Watch() as seen:
        model(x).sum().backward()
    assert seen.crashes is crashes


def real(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Steps in the usual order are taken, those with channels last are not, and said to be ten times as fast."""
    step, orders = pace._Runner.step, list[bool]()

    def quick(self: Any, *arguments: Any) -> float:
        orders.append(self.pace.channels_last)
        if self.pace.channels_last:
            return 0.1
        step(self, *arguments)
        return 1.0

    monkeypatch.setattr(pace._Runner, "step", quick)
    return orders


def chosen(model: nn.Module, objective: Any = supervised, **settings: Any) -> bool:
    return pace_of(model, TASK, Training(**settings), objective, folder=None, seed=0).channels_last


def test_it_is_not_tried_and_refused_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = real(monkeypatch)
    assert chosen(shortcut(VECTOR))
    assert chosen(shortcut(VECTOR), channels_last=True)
    orders.clear()
    assert not chosen(shortcut(6))
    with pytest.raises(RecipeError, match=r"channels_last=True.*round_to=16"):
        chosen(shortcut(6), channels_last=True)
    assert orders, "steps were taken"
    assert not any(orders), "and none of them with channels last"


def test_slices_of_weights_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real(monkeypatch)
    assert not chosen(shortcut(VECTOR), narrow)


@pytest.mark.parametrize("inputs", [6, VECTOR])
def test_looking_leaves_no_trace(inputs: int) -> None:
    model = shortcut(inputs).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    asked = {"precision": "float32", "channels_last": True}
    assert pace._crashes(model, TASK, Training(**asked), supervised, 0) is (inputs < VECTOR)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
