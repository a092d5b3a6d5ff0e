"""Weights that cannot overflow 16 bits two by two: certified, close to the others, the same in torch and runtime."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lissom
from lissom import Quantize
from lissom.functional.overflow import worst_pair
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.transforms.base import Plan
from lissom.transforms.quantization import planning
from lissom.transforms.quantization.actions import StoreWeight


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.conv.weight[0] = 0.5  # equal weights: every pair of the row is the worst one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.deep(torch.relu(self.conv(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


DATA = [(torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)]
TASK = lissom.Task(example_inputs=DATA[0], calibration=DATA)


def rounded(net: Net, **more: object) -> tuple[torch.nn.Module, Plan]:
    one = Quantize.parse({"calibration": "minmax", **more}, "test")
    traced, target = trace(net, TASK.example), load_target("openvino")
    plan = one.plan(traced.graph, one.study(net, traced, TASK, target), target)
    return one.apply(net, plan, traced, TASK), plan


def at_risk(module: torch.nn.Module) -> int:
    return sum(worst_pair(held, 255).rows for name, held in module.state_dict().items() if name.endswith("_int8"))


@pytest.mark.parametrize("corrections", [(), ("bias",), ("gptq",)])
def test_no_row_is_at_risk_with_the_fix_and_some_are_without(net: Net, corrections: tuple[str, ...]) -> None:
    plain, _ = rounded(net, overflow_fix="off", corrections=corrections)
    fixed, plan = rounded(net, overflow_fix="on", corrections=corrections)
    assert at_risk(plain) > 0
    assert at_risk(fixed) == 0
    assert all(one.pairs_fit for one in plan.of(StoreWeight))
    with torch.no_grad():
        wanted, got = net(*DATA[0]), fixed(*DATA[0])
    assert 20 * torch.log10(wanted.norm() / (got - wanted).norm()) > 25  # dB


def test_auto_is_for_machines_that_need_it(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in (False, True):
        monkeypatch.setattr(planning, "saturates_here", lambda needed=needed: needed)
        assert planning.spares("auto", load_target("openvino")) is needed
        assert not planning.spares("auto", load_target("executorch"))
        assert not planning.spares("off", load_target("openvino"))


def test_fewer_bits_need_no_fix(net: Net) -> None:
    fixed, plan = rounded(net, overflow_fix="on", weight_bits=4, corrections=())
    assert not any(one.pairs_fit for one in plan.of(StoreWeight))
    assert at_risk(fixed) == 0
