"""`Prune(criterion="auto")`: what it is for which task, and that the step says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lissom
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.transforms.base import Work

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """The larger the weights of a hidden feature, the more rarely it is anything but zero."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(8, 6, generator=torch.Generator().manual_seed(1)))
        net[0].weight.mul_(torch.arange(1, 9)[:, None])
        net[0].bias.copy_(-(torch.arange(8.0) ** 2) * 4)
    return net


@pytest.mark.parametrize(
    ("data", "meant"),
    [({"calibration": [(X,)]}, "reconstruction"), ({"train": [(X, X[:, 0])]}, "reconstruction"), ({}, "magnitude")],
)
def test_it_looks_at_data_where_there_are_data(model: nn.Module, data: dict[str, object], meant: str):
    task = lissom.Task(example_inputs=(X[:1],), **data)  # pyright: ignore[reportArgumentType]
    auto, named = (
        lissom.plan(model, task, lissom.Recipe([lissom.Prune(ratio=0.5, **more)]))[0]
        for more in ({}, {"criterion": meant})
    )
    notes: dict[str, object] = {}
    target, traced = load_target("torch"), trace(model, task.example)
    lissom.Prune(ratio=0.5).study(model, traced, task, target, Work(note=notes.__setitem__))
    assert notes == {"criterion": meant}
    assert auto.actions == named.actions
    if meant == "reconstruction":
        bare = lissom.Recipe([lissom.Prune(ratio=0.5, criterion="magnitude")])
        assert lissom.plan(model, task, bare)[0].actions != auto.actions
