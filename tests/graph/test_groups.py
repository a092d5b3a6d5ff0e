"""Channel groups as data: `Graph.groups`."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

import lissom
from lissom.graph.graph import Graph
from lissom.graph.groups import with_groups
from lissom.graph.trace import trace


class Residual(nn.Module):
    """A stem, and a block whose last convolution is added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(torch.relu(self.norm(self.inner(x))))
        return self.head(x.mean((2, 3)))


def task() -> lissom.Task:
    return lissom.Task(example_inputs=(torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)),))


def test_groups_name_their_layers_their_axes_and_their_cost() -> None:
    graph = lissom.analyze(Residual().eval(), task())
    groups = {group.name: group for group in graph.groups}
    assert {name: group.size for name, group in groups.items()} == {
        "stem.weight": 8, "stem.weight[1]": 3, "inner.weight": 12, "head.weight": 5,
    }  # fmt: skip
    stem = groups["stem.weight"]
    assert stem.layers == ("stem", "inner", "outer", "head")
    assert {(m.parameter, m.axis) for m in stem.members} == {
        ("stem.weight", 0), ("stem.bias", 0), ("outer.weight", 0), ("outer.bias", 0), ("inner.weight", 1),
        ("head.weight", 1),
    }  # fmt: skip
    assert set(groups["inner.weight"].layers) == {"inner", "norm", "outer"}
    assert stem.reason is None
    assert groups["head.weight"].reason == "it is an output of the model"
    # 6 x 6 places: stem 3 * 8 * 9 each, both others 8 * 12 * 9, the head 8 * 5
    assert groups["inner.weight"].macs == 36 * 2 * 8 * 12 * 9
    assert stem.macs == graph.macs == 36 * (3 * 8 * 9 + 2 * 8 * 12 * 9) + 40
    assert groups["head.weight"].macs == 40


def test_a_graph_with_groups_is_data_and_the_same_every_time() -> None:
    model = Residual().eval()
    graph = lissom.analyze(model, task())
    assert Graph.model_validate_json(graph.model_dump_json()) == graph == lissom.analyze(model, task())


def test_plans_do_not_depend_on_them() -> None:
    model = Residual().eval()
    traced = trace(model, task().example)
    assert traced.graph.groups == ()
    assert with_groups(traced).model_copy(update={"groups": ()}) == traced.graph


def test_they_take_little_of_the_time_of_tracing() -> None:
    traced = trace(Residual().eval(), task().example)
    with_groups(traced)
    started = time.perf_counter()
    with_groups(traced)
    assert time.perf_counter() - started < 0.2
