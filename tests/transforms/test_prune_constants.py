"""Channels that never change are cut without loss: what they added moves into a bias or a mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.transforms.pruning import Cut, Prune

TARGET = load_target("torch")


class Net(nn.Module):
    """The first half of the norm's channels are dead: scale 0, so each emits sigmoid(shift)."""

    def __init__(self, reader: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        bias = reader == "bias"
        self.read = nn.Conv2d(8, 4, 1 if reader != "padded" else 3, bias=bias)
        self.after = nn.BatchNorm2d(4) if not bias else nn.Identity()
        self.head = nn.Linear(4, 2)
        with torch.no_grad():
            self.norm.weight[:4] = 0
            self.norm.bias.uniform_(-1, 1)
            if not bias:
                self.after.running_mean.uniform_(-1, 1)  # pyright: ignore

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.norm(self.conv(x)))
        return self.head(torch.relu(self.after(self.read(x))).mean((2, 3)))


def pruned(model: nn.Module, **settings: Any) -> tuple[set[int], nn.Module]:
    x = torch.randn(2, 3, 8, 8)
    task = lissom.Task(example_inputs=(x,))
    made = trace(model, task.example)
    one = Prune(ratio=0.5, criterion="bn_scale", scope="local", exclude=("read",), **settings)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    (cut,) = [cut for cut in plan.of(Cut) if (cut.parameter, cut.axis) == ("conv.weight", 0)]
    return set(cut.kept), one.apply(model, plan, made, task)


@pytest.mark.parametrize("reader", ["bias", "normalization", "padded"])
def test_constant_channels_are_cut_without_loss(reader: str) -> None:
    torch.manual_seed(0)
    model = Net(reader).eval()
    x = torch.randn(5, 3, 8, 8)
    kept, smaller = pruned(model)
    assert kept == {4, 5, 6, 7}
    torch.testing.assert_close(smaller(x), model(x), atol=1e-5, rtol=1e-4)


def test_without_it_something_is_lost() -> None:
    torch.manual_seed(0)
    model = Net("bias").eval()
    x = torch.randn(5, 3, 8, 8)
    assert float((pruned(model, recovery="none")[1](x) - model(x)).abs().max().detach()) > 1e-2


def test_channels_that_change_are_left_to_the_cut() -> None:
    torch.manual_seed(0)
    model = Net("bias").eval()
    with torch.no_grad():
        model.norm.weight[:4] = 0.01
    _, smaller = pruned(model)
    torch.testing.assert_close(smaller.get_parameter("read.bias"), model.get_parameter("read.bias"))
