"""What the user's own code ties together keeps the same share of channels, and the result is of the user's class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import lissom
from lissom.functional.selection import Scope
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.pruning.ties import Ties


class Separate(nn.Module):
    """Queries, keys and values of layers apart, viewed with one head_dim."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        made = (q @ k.transpose(-2, -1) * 0.4).softmax(-1) @ v
        return self.out(made.transpose(1, 2).flatten(2))


class Dividing(nn.Module):
    """The width of a head follows from what the module reads."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, c = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        made = (q @ k.transpose(-2, -1) * 0.4).softmax(-1) @ v
        return self.out(made.transpose(1, 2).reshape(n, length, c))


class Halves(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 16)
        self.inner = nn.Linear(8, 8)
        self.out = nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).chunk(2, -1)
        return self.out(torch.cat([a, self.inner(b)], -1))


class HalvesByNumber(Halves):
    """No attribute holds what it splits by."""

    def __init__(self, width: int = 24) -> None:
        super().__init__(width)
        self.both = 16

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).split(self.both // 2, -1)
        return self.out(torch.cat([a, self.inner(b)], -1))


class Net(nn.Module):
    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Linear(7, 24)
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


BLOCKS = [Separate, Dividing, Halves, HalvesByNumber]


def pruned(block: type[nn.Module], **settings: Any) -> tuple[nn.Module, lissom.Prune, Any]:
    torch.manual_seed(0)
    model = Net(block)
    task = Task(example_inputs=(torch.randn(2, 6, 7),))
    one = lissom.Prune(recovery="none", **settings)
    traced = trace(model, task.example)
    study = one.study(model, traced, task, load_target("torch"))
    plan = one.plan(traced.graph, study, load_target("torch"))
    return one.apply(model, plan, traced, task), one, plan


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("wish", [{"ratio": 0.4}, {"macs_ratio": 2.5}])
def test_the_result_is_of_the_users_class(block: type[nn.Module], scope: Scope, wish: dict[str, float]):
    found, _, plan = pruned(block, scope=scope, **wish)
    assert type(found) is Net
    assert found.head.weight.shape[1] < 24
    if "macs_ratio" in wish:
        task = Task(example_inputs=(torch.randn(2, 6, 7),))
        assert trace(found, task.example).graph.macs == plan.predicted.macs
        assert trace(Net(block), task.example).graph.macs >= 2.5 * plan.predicted.macs


def test_a_divisor_stays_and_says_so():
    found, _, plan = pruned(Dividing, ratio=0.5)
    assert [block.num_heads for block in found.blocks] == [4, 4]
    width = found.embed.weight.shape[0]
    assert width % 4 == 0
    assert [tuple(block.qkv.weight.shape) for block in found.blocks] == [(3 * width, width)] * 2
    assert {s.layer for s in plan.skipped if s.reason == "the model's own code divides by its size"} == {
        "blocks.0.qkv",
        "blocks.1.qkv",
    }


def test_an_exported_graph_has_no_ties():
    torch.manual_seed(0)
    model = Net(Separate)
    task = Task(example_inputs=(torch.randn(2, 6, 7),))
    graph = trace(model, task.example).module
    one = lissom.Prune(ratio=0.5)
    study = one.study(graph, trace(graph, task.example), task, load_target("torch"))
    assert study.ties == Ties()
    assert isinstance(one.apply(graph, one.plan(trace(graph, task.example).graph, study, load_target("torch")),
        trace(graph, task.example), task), GraphModule)  # fmt: skip


def test_tied_groups_keep_the_same_share():
    ties = Ties((("a", "b"), ("c", "d", "e"), ("gone", "f")))
    sizes = {"a": 8, "b": 8, "c": 96, "d": 32, "e": 32, "f": 5, "g": 7}
    counts = {"a": 3, "b": 6, "c": 60, "d": 10, "e": 32, "f": 2, "g": 3}
    floors, ones = dict.fromkeys(sizes, 1), dict.fromkeys(sizes, 1)
    found = ties.tied(counts, sizes, floors, ones)
    assert found == {"a": 4, "b": 4, "c": 60, "d": 20, "e": 20, "f": 2, "g": 3}
    assert ties.tied(sizes, sizes, floors, ones) == sizes
    # A floor of one binds all of its tie; so does a multiple: 20 of 32 in eights is 16, and 48 of 96 with it.
    assert ties.tied(counts, sizes, {**floors, "b": 5}, ones) == {**found, "a": 5, "b": 5}
    assert ties.tied(counts, sizes, floors, {**ones, "d": 8}) == {**found, "c": 48, "d": 16, "e": 16}
