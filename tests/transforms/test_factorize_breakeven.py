"""The guard of Factorize: what is not faster on the target stays whole, and says with which times."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

import pydantic
import pytest
import torch
from torch import Tensor, nn

from lissom.errors import GoalError, UsageError
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.lowrank import Factorize
from lissom.transforms.lowrank.evidence import find_layers

TARGET = load_target("torch")
ROUNDS = (1.0, 1.01, 0.99, 1.0, 1.02)
Cost = Callable[[nn.Module], float]


class Watch:
    """Times that follow from a formula: a test must not depend on what else a machine does."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self.asked: list[tuple[tuple[int, ...], list[str]]] = []

    def __call__(self, modules: Mapping[str, nn.Module], example: Batch) -> dict[str, tuple[float, ...]]:
        (x,) = example.args
        self.asked.append((tuple(x.shape), [repr(one) for one in modules.values()]))
        shapes = {tuple(one(x).shape) for one in modules.values()}
        assert len(shapes) == 1
        return {name: tuple(self.cost(one) * r for r in ROUNDS) for name, one in modules.items()}


def weights(module: nn.Module) -> float:
    return float(sum(p.numel() for p in module.parameters() if p.ndim > 1))


def parts(module: nn.Module) -> int:
    return sum(isinstance(one, (nn.Conv2d, nn.Linear)) for one in module.modules())


@cache
def ready() -> tuple[nn.Module, Trace, Task]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12)]
        model = nn.Sequential(*layers).eval()
    task = Task(example_inputs=(torch.randn(1, 8, 6, 6),))
    return model, trace(model, task.example), task


def planned(one: Factorize, watch: Watch | None) -> Plan:
    model, traced, task = ready()
    return one.plan(traced.graph, one.study(model, traced, task, TARGET, Work(race=watch)), TARGET)


def test_what_is_measured_decides_and_is_in_the_plan():
    """Every further part costs 0.8 ms, a thousand weights 1 ms: the first layer is too small to pay for that."""
    watch = Watch(lambda module: weights(module) / 1000 + 0.8 * (parts(module) - 1))
    plan = planned(Factorize(rank=4, exclude=("7",)), watch)
    assert [a.layer for a in plan.actions] == ["2", "4"]
    for action in plan.actions:
        assert action.latency_ms == pytest.approx(2.304)
        assert action.latency_ms_after == pytest.approx((4 * 16 * 9 + 16 * 4) / 1000 + 0.8)
    reasons = {s.layer: s.reason for s in plan.skipped}
    assert reasons["0"] == (
        "svd at rank 4 takes 1.15 ms, the layer itself 1.15 ms: 1.00 times as fast, interval 1.00 to 1.00"
    )
    assert Factorize(rank=4).read_plan(json.loads(plan.model_dump_json())) == plan


def test_equal_layers_are_timed_once_on_the_shape_they_meet():
    watch = Watch(weights)
    planned(Factorize(rank=4), watch)
    assert [shape for shape, _ in watch.asked] == [(1, 8, 6, 6), (1, 16, 6, 6), (1, 16)]
    assert watch.asked[0][1][0] == repr(nn.Conv2d(8, 16, 3, padding=1))


def test_another_method_is_taken_where_the_best_one_is_slow():
    slow_rows = Watch(lambda m: weights(m) * (10.0 if any(k == (3, 1) for k in kernels(m)) else 1.0))
    by_count = planned(Factorize(ratio=0.5, exclude=("7",)), None)
    assert {a.method for a in by_count.actions} & {"spatial"}
    measured = planned(Factorize(ratio=0.5, exclude=("7",)), slow_rows)
    assert [a.layer for a in measured.actions] == [a.layer for a in by_count.actions]
    assert not {a.method for a in measured.actions} & {"spatial"}
    assert all(a.macs_after <= 0.5 * a.macs for a in measured.actions)


def kernels(module: nn.Module) -> list[tuple[int, ...]]:
    return [one.kernel_size for one in module.modules() if isinstance(one, nn.Conv2d)]


def test_a_budget_is_shared_between_those_that_pay():
    """Layers 2 and 4 gain nothing; the others have to give what was wished for."""
    watch = Watch(lambda m: 1.0 if kernels(m) and in_channels(m) == 16 else weights(m))
    plan = planned(Factorize(macs_ratio=1.1), watch)
    _, traced, _ = ready()
    assert {a.layer for a in plan.actions} <= {"0", "7"}
    assert plan.predicted.macs <= traced.graph.macs / 1.1
    with pytest.raises(GoalError, match=r"at its least rank and 2 layers whole that are no slower than their parts"):
        planned(Factorize(macs_ratio=2), watch)


def in_channels(module: nn.Module) -> int:
    return next(one.in_channels for one in module.modules() if isinstance(one, nn.Conv2d))


def test_a_budget_goes_down_in_rank_until_it_pays():
    """Only ranks up to 8 are faster."""

    def cost(module: nn.Module) -> float:
        return weights(module) * (10.0 if isinstance(module, nn.Sequential) and narrowest(module) > 8 else 1.0)

    counted = planned(Factorize(macs_ratio=1.2, method="svd", round_to=1), None)
    assert max(a.ranks[0] for a in counted.actions) > 8
    measured = planned(Factorize(macs_ratio=1.2, method="svd", round_to=1), Watch(cost))
    assert measured.actions
    assert max(a.ranks[0] for a in measured.actions) <= 8


def narrowest(module: nn.Module) -> int:
    return min(p.shape[0] for p in module.parameters() if p.ndim > 1)


def test_size_as_the_goal_asks_no_watch():
    watch = Watch(lambda _: 1.0)
    assert planned(Factorize(parameters_ratio=2), watch).actions
    assert planned(Factorize(rank=2, break_even="parameters"), watch).actions
    assert planned(Factorize(rank=2, break_even="macs"), watch).actions
    assert not watch.asked
    assert not planned(Factorize(rank=2), watch).actions
    assert watch.asked


def test_a_dry_run_does_not_measure():
    assert planned(Factorize(rank=2), None).actions[0].latency_ms is None
    for settings in ({"rank": 2, "break_even": "latency"}, {"latency_ratio": 2}):
        with pytest.raises(UsageError, match="which a dry run does not"):
            planned(Factorize(**settings), None)


def test_a_guard_that_counts_something_else_than_the_wish_is_refused():
    with pytest.raises(pydantic.ValidationError, match=r"counts parameters, break_even='macs' something else"):
        Factorize(parameters_ratio=2, break_even="macs")
    Factorize(parameters_ratio=2, break_even="latency")


def test_the_least_cut_that_is_measured_fast_enough():
    model, traced, task = ready()
    whole = weights(model)
    one = Factorize(latency_ratio=1.5, break_even="macs")
    study = one.study(model, traced, task, TARGET, Work(faster=lambda m: (whole / weights(m)) ** 0.7))
    plan = one.plan(traced.graph, study, TARGET)
    assert study.macs_ratio is not None
    assert traced.graph.macs / plan.predicted.macs >= study.macs_ratio
    assert (whole / weights(one.restructure(model, plan, traced, task))) ** 0.7 >= 1.5
    with pytest.raises(GoalError, match=r"latency_ratio=50\) is out of reach by thinner layers: the fastest"):
        Factorize(latency_ratio=50).study(model, traced, task, TARGET, Work(faster=lambda m: whole / weights(m)))


class Twice(nn.Module):
    """A layer on inputs of two shapes, rows folded into the batch, a padding the operator does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x + nn.functional.interpolate(self.conv(x[..., ::2, ::2]), scale_factor=2)
        windows = x.reshape(-1, 4, 2, 8, 8).permute(0, 2, 3, 4, 1).reshape(-1, 64, 4)
        return self.fc(windows)


def test_inputs_of_one_example_whatever_the_first_axis_holds():
    model = Twice().eval()
    layers = {
        one.name: one for one in find_layers(model, trace(model, Batch((torch.randn(3, 4, 16, 8),))).graph).layers
    }
    assert layers["conv"].calls == ((1, 4, 16, 8), (1, 4, 8, 4))
    assert layers["fc"].calls == ((2, 64, 4),)
