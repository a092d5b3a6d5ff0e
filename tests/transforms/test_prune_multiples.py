"""`Prune(round_to=None)`: multiples that suit the target, finer where they are too coarse, whole heads left alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.errors import GoalError
from lissom.graph.channels import Group, find_channels
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Task
from lissom.transforms.pruning import Cut, Prune
from lissom.transforms.pruning.multiples import STEPS, finer, suited, width_of
from lissom.transforms.pruning.ties import FREE, Ties

EIGHTS, ONES = load_target("openvino"), load_target("torch")


class Net(nn.Module):
    """Groups of 48, 16 and 10 channels; flattened maps of 16 places a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 16, 3, padding=1)
        self.hidden, self.head = nn.Linear(16 * 16, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Heads(nn.Module):
    """Four heads of eight features, queries, keys and values from one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(7, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        made = (q @ k.transpose(-2, -1) * 0.35).softmax(-1) @ v
        return self.head(x + self.out(made.transpose(1, 2).flatten(2)))


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {"net": (Net, (2, 3, 4, 4)), "heads": (Heads, (2, 5, 7))}


@functools.cache
def prepared(name: str) -> tuple[nn.Module, Trace, Task]:
    kind, shape = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = kind().eval(), torch.randn(shape)
    task = Task(example_inputs=(x,))
    return model, trace(model, task.example), task


def planned(name: str, target: Any = EIGHTS, **wish: Any) -> Any:
    model, made, task = prepared(name)
    one = Prune(recovery="none", **wish)
    return one.plan(made.graph, one.study(model, made, task, target), target)


def counts(plan: Any) -> dict[str, int]:
    return {c.parameter: len(c.kept) for c in plan.of(Cut) if c.axis == 0 and c.parameter.endswith("weight")}


@functools.cache
def free(name: str) -> dict[str, Group]:
    groups = find_channels(prepared(name)[1]).groups
    return {group.name: group for group in groups if group.reason is None and group.size > 1}


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_a_unit_counts_the_places_that_lie_side_by_side() -> None:
    assert {name: width_of(group) for name, group in free("net").items()} == {
        "stem.weight": 1,
        "inner.weight": 1,  # sixteen side by side for the linear layer, one for the convolution itself
        "hidden.weight": 1,
    }
    heads = free("heads").values()
    # Heads are eight features side by side; their features lie apart, one place in every head.
    assert sorted((group.size, width_of(group)) for group in heads if group.size < 32) == [(4, 8), (8, 1)]


def test_the_multiple_is_the_targets_unless_a_step_takes_more_than_a_quarter() -> None:
    assert suited(free("net"), 8, FREE, ()) == {"stem.weight": 8, "inner.weight": 4, "hidden.weight": 2}
    assert suited(free("net"), 16, FREE, ())["stem.weight"] == 8
    assert set(suited(free("net"), 1, FREE, ()).values()) == {1}
    modules = {free("net")["stem.weight"].atom}
    assert suited(free("net"), 8, FREE, modules) == {"stem.weight": 1, "inner.weight": 4, "hidden.weight": 2}
    found = suited(free("heads"), 8, FREE, ())
    assert {found[name] for name, group in free("heads").items() if group.size == 4} == {1}
    assert {found[name] for name, group in free("heads").items() if group.size == 8} == {2}
    assert {found[name] for name, group in free("heads").items() if group.size == 32} == {8}


@given(st.integers(1, 64), st.sets(st.sampled_from(["stem.weight", "inner.weight", "hidden.weight"])))
@settings(max_examples=40, deadline=None)
def test_no_step_takes_more_than_a_quarter(multiple: int, tied: set[str]) -> None:
    groups = free("net")
    ties = Ties((tuple(sorted(tied)),)) if len(tied) > 1 else FREE
    found = suited(groups, multiple, ties, ())
    sizes = {name: group.size for name, group in groups.items()}
    assert all(own == 1 or STEPS * own <= sizes[name] for name, own in found.items())
    ones = dict.fromkeys(sizes, 1)
    for tie in ties.same:
        kept = [ties.tied({**sizes, tie[0]: count}, sizes, ones, found) for count in range(1, sizes[tie[0]] + 1)]
        for counts in kept:
            assert len({counts[name] / sizes[name] for name in tie}) == 1
            assert all(counts[name] % found[name] == 0 or counts[name] == sizes[name] for name in tie)


def test_finer_ends_at_single_channels() -> None:
    assert list(finer({"a": 8, "b": 3})) == [{"a": 8, "b": 3}, {"a": 4, "b": 3}, {"a": 2, "b": 2}, {"a": 1, "b": 1}]
    assert list(finer({"a": 1})) == [{"a": 1}]
    assert list(finer({})) == [{}]


# ---- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [{"ratio": 0.4}, {"ratio": 0.4, "scope": "local"}, {"macs_ratio": 2.0}])
def test_the_target_says_in_what_multiples(wish: dict[str, Any]) -> None:
    found = counts(planned("net", **wish))
    multiples = {"stem.weight": 8, "inner.weight": 4, "hidden.weight": 2}
    assert found
    assert all(count % multiples[name] == 0 for name, count in found.items())
    # A target of single channels, and a number of one's own, are what they say.
    assert planned("net", ONES, **wish).actions == planned("net", round_to=1, **wish).actions
    single = counts(planned("net", ONES, **wish))
    assert any(count % multiples[name] for name, count in single.items())


@pytest.mark.parametrize("name", NETS)
def test_the_plan_is_carried_out_and_replayed(name: str) -> None:
    model, made, task = prepared(name)
    one = Prune(macs_ratio=1.8, recovery="none")
    plan = planned(name, macs_ratio=1.8)
    assert plan.settings["round_to"] is None
    again = one.read_plan(plan.model_dump(mode="json"))
    assert again == plan
    smaller = one.apply(model, again, made, task)
    assert type(smaller) is type(model)
    assert trace(smaller, task.example).graph.macs == plan.predicted.macs <= made.graph.macs / 1.8


def test_a_wish_that_is_out_of_reach_in_multiples_is_met_in_finer_ones() -> None:
    whole = prepared("net")[1].graph
    with pytest.raises(GoalError, match="out of reach"):
        planned("net", macs_ratio=30.0, round_to=8)
    plan = planned("net", macs_ratio=30.0)
    assert plan.predicted.macs <= whole.macs / 30
    # 90 % of 48, 16 and 10 channels: in eights, fours and twos at least 8, 4 and 2 would stay.
    most = counts(planned("net", ratio=0.9, scope="local"))
    assert most == counts(planned("net", ratio=0.9, scope="local", round_to=1))
    assert counts(planned("net", ratio=0.75, scope="local")) == {
        "stem.weight": 8,
        "inner.weight": 4,
        "hidden.weight": 2,
    }
    with pytest.raises(GoalError, match="out of reach"):
        planned("net", macs_ratio=1000.0)


def test_coarse_multiples_stay_near_the_budget() -> None:
    """The first share that reaches the budget takes eight of every group; most of that is given back."""
    made = prepared("net")[1]
    plan = planned("net", macs_ratio=1.3, scope="local", round_to=8)
    assert counts(plan) == {"inner.weight": 8}
    assert 1.7 < made.graph.macs / plan.predicted.macs < 1.8  # 40, 8 and 8 of 48, 16 and 10 would be 2.1
