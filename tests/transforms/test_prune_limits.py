"""What `Prune` and `PruneDepth` hold to: bounds, memory, data that do not fit, and when a copy is the user's class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import lissom
from lissom.errors import DataError, GoalError
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.transforms.base import Plan, Transform, clone
from lissom.transforms.pruning import Cut, Prune, PruneDepth, recovery
from lissom.transforms.pruning.own_class import signature, unlike

TARGET = load_target("torch")


class Net(nn.Module):
    def __init__(self, padding: Any = 1, width: int = 14) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 5, 3, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(x + self.inner(x)))


def net(**settings: Any) -> Net:
    torch.manual_seed(0)
    return Net(**settings).eval()


def task_of(*shapes: tuple[int, ...]) -> lissom.Task:
    torch.manual_seed(1)
    shapes = shapes or ((16, 3, 6, 6),)
    batches = [(torch.randn(shape), torch.zeros(shape[0], dtype=torch.long)) for shape in shapes]
    return lissom.Task(
        example_inputs=(torch.randn(2, 3, 6, 6),), calibration=batches, loss=lambda y, _: y.square().mean()
    )


def carried_out(model: nn.Module, one: Transform, task: lissom.Task) -> tuple[Plan, nn.Module]:
    made = trace(model, task.example)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    return plan, one.apply(model, plan, made, task)


@given(most=st.floats(0.05, 0.95), width=st.integers(2, 24))
@settings(max_examples=12, deadline=None)
def test_no_group_loses_more_than_max_ratio(most: float, width: int) -> None:
    model, task = net(width=width), task_of()
    one = Prune(ratio=0.95, max_ratio=most, recovery="none")
    made = trace(model, task.example)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    for cut in plan.of(Cut):
        assert 1 - len(cut.kept) / cut.size <= most + 1e-9


def test_a_budget_for_a_model_without_channels_to_cut_is_refused() -> None:
    with pytest.raises(GoalError, match=r"A number of MACs of .* is out of reach"):
        carried_out(nn.Conv2d(3, 5, 3), Prune(macs_ratio=2), task_of())


@pytest.mark.parametrize("padding", ["same", "valid", 2])
def test_layers_are_fitted_again_whatever_their_padding(padding: Any) -> None:
    model, task = net(padding=padding), task_of()
    x = task.calibration[0][0]  # type: ignore[index]

    def error(how: str) -> float:
        smaller = carried_out(model, Prune(ratio=0.4, recovery=how), task)[1]  # pyright: ignore[reportArgumentType]
        return float((smaller(x) - model(x)).detach().square().sum())

    assert error("reconstruct") < 0.5 * error("none")


def test_as_many_examples_are_held_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = net(), task_of((16, 3, 6, 6), (16, 3, 6, 6))
    made = trace(model, task.example)
    one = recovery.example_bytes(made.module)
    # The input of `inner`, what it makes and their sum, of 14 channels of 6 x 6 in float32.
    assert one == 3 * 14 * 36 * 4
    seen: list[int] = []
    monkeypatch.setattr(recovery, "MEMORY", 2 * one * 20)
    whole = recovery._Walk.__init__

    def watched(walk: Any, pair: Any, pieces: Any) -> None:
        seen.extend(piece.size for piece in pieces)
        whole(walk, pair, pieces)

    monkeypatch.setattr(recovery._Walk, "__init__", watched)
    carried_out(model, Prune(ratio=0.4), task)
    assert seen == [16, 4]


@pytest.mark.parametrize(
    "one",
    [Prune(ratio=0.3, criterion="reconstruction"), Prune(ratio=0.3, criterion="taylor"), PruneDepth(ratio=1.0)],
    ids=lambda one: f"{one.name}-{one.criterion}",
)
def test_data_that_do_not_fit_the_model_are_named(one: Transform) -> None:
    with pytest.raises(DataError, match="A calibration batch does not fit the model"):
        carried_out(net(), one, task_of((4, 3, 7, 7)))


def test_a_module_that_computes_more_than_the_graph_is_not_it() -> None:
    class More(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    example = task_of().example
    wanted: GraphModule = clone(trace(net(), example).module)
    more = More().eval()
    assert unlike(net(), wanted, example) == ""
    assert "computes" in unlike(more, wanted, example)


def test_a_graph_that_goes_on_where_the_module_ends_is_not_it() -> None:
    example = task_of().example
    wanted = clone(trace(net(), example).module)
    shorter = clone(wanted)
    # Nothing after the last operator: without its output, the shorter one is a prefix of the other.
    shorter.graph.erase_node(next(reversed(list(shorter.graph.nodes))))
    assert signature(shorter) == signature(wanted)[:-1]
    assert "where the pruned graph has nothing" in unlike(net(), shorter, example)
