"""`PruneDepth`: which modules are residual blocks, which go, and that the rest computes what it says."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import lissom
from lissom.errors import GoalError, RecipeError
from lissom.graph.blocks import find_blocks
from lissom.graph.trace import trace
from lissom.pipeline import foresee
from lissom.pipeline.recording import step_records
from lissom.pipeline.transforming import transform
from lissom.target import load_target
from lissom.transforms.base import Plan
from lissom.transforms.pruning import Drop, PruneDepth, depth_outlook


class Residual(nn.Module):
    """relu(x + conv(x)); `scale` makes some blocks matter more than others."""

    def __init__(self, channels: int, scale: float, kind: str = "plain") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.kind = kind
        with torch.no_grad():
            self.conv.weight *= scale
            self.conv.bias *= scale

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.kind == "plain":
            return F.relu(x + out)
        if self.kind == "scaled shortcut":
            return F.relu(0.5 * x + out)
        if self.kind == "no shortcut":
            return F.relu(out)
        return F.gelu(x + out)


class Net(nn.Module):
    def __init__(self, *blocks: tuple[float, str]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*[Residual(8, scale, kind) for scale, kind in blocks])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


SCALES = ((1.0, "plain"), (0.01, "plain"), (2.0, "plain"), (0.1, "plain"))
TARGET = load_target("torch")


def task_for(seed: int = 0) -> lissom.Task:
    torch.manual_seed(seed)
    batches = [(torch.randn(4, 3, 6, 6), torch.zeros(4, dtype=torch.long)) for _ in range(3)]
    return lissom.Task(example_inputs=(batches[0][0][:2],), calibration=batches)


def net(*blocks: tuple[float, str]) -> Net:
    torch.manual_seed(1)
    return Net(*(blocks or SCALES)).eval()


def carried_out(model: nn.Module, one: PruneDepth) -> tuple[Plan, nn.Module]:
    task = task_for()
    made = trace(model, task.example)
    plan = one.plan(made.graph, one.study(model, made, task, TARGET), TARGET)
    return plan, one.apply(model, plan, made, task)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("plain", ["blocks.0", "blocks.1"]),
        ("scaled shortcut", ["blocks.1"]),
        ("no shortcut", ["blocks.1"]),
        ("gelu", []),  # and what comes out of it is no ReLU's output, so the second block's ReLU changes it
    ],
)
def test_a_block_is_its_input_when_its_branch_is_silent(kind: str, found: list[str]) -> None:
    model = net((1.0, kind), (1.0, "plain"))
    names = [block.module for block in find_blocks(trace(model, task_for().example))]
    assert names == found


def test_the_innermost_blocks_are_found() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Residual(8, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.inner(x))

    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Outer()).eval()
    assert [b.module for b in find_blocks(trace(model, task_for().example))] == ["2.inner"]


@pytest.mark.parametrize("criterion", ["output", "similarity"])
def test_the_least_important_block_goes_first(criterion: str) -> None:
    plan, shorter = carried_out(net(), PruneDepth(ratio=0.25, criterion=criterion, recovery="none"))
    assert [drop.layer for drop in plan.of(Drop)] == ["blocks.1"]
    assert isinstance(shorter, Net)
    assert isinstance(shorter.blocks[1], nn.Identity)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 1.0])
def test_neighbouring_blocks_go_together(ratio: float) -> None:
    model = net()
    plan, shorter = carried_out(model, PruneDepth(ratio=ratio, recovery="none"))
    gone = [int(drop.layer.split(".")[1]) for drop in plan.of(Drop)]
    x = torch.randn(3, 3, 6, 6)
    y = F.relu(model.stem(x))
    for index, block in enumerate(model.blocks):
        y = y if index in gone else block(y)
    torch.testing.assert_close(shorter(x), model.head(y.mean((2, 3))))


@torch.no_grad()
def test_output_importance_is_the_relative_change_of_the_output() -> None:
    model, task = net(), task_for()
    study = PruneDepth(ratio=0.5).study(model, trace(model, task.example), task, TARGET)
    gap = energy = 0.0
    for x, _ in task.calibration or ():
        without = copy.deepcopy(model)
        without.blocks[2] = nn.Identity()
        gap += float((without(x) - model(x)).double().square().sum())
        energy += float(model(x).double().square().sum())
    assert study.importance["blocks.2"] == pytest.approx(gap / energy, rel=1e-4)


def test_predicted_cost_is_the_cost_of_the_result() -> None:
    plan, shorter = carried_out(net(), PruneDepth(macs_ratio=1.5))
    graph = lissom.analyze(shorter, task_for())
    assert (plan.predicted.macs, plan.predicted.parameters, plan.predicted.bytes) == (
        graph.macs, graph.parameters, graph.bytes,
    )  # fmt: skip
    assert lissom.analyze(net(), task_for()).macs / graph.macs >= 1.5


@torch.no_grad()
def test_what_stays_is_fitted_to_what_the_whole_computed() -> None:
    model = net()
    one = PruneDepth(ratio=0.5)
    fitted, bare = carried_out(model, one)[1], carried_out(model, PruneDepth(ratio=0.5, recovery="none"))[1]

    def error(shorter: nn.Module) -> float:
        return sum(float((shorter(x) - model(x)).square().sum()) for x, _ in task_for().calibration or ())

    assert error(fitted) < 0.8 * error(bare)


def test_an_exported_graph_is_shortened_too() -> None:
    model = net()
    graph = trace(model, task_for().example).module
    _, shorter = carried_out(graph, PruneDepth(ratio=0.25, recovery="none"))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(shorter(x), carried_out(model, PruneDepth(ratio=0.25, recovery="none"))[1](x))


def test_the_original_is_untouched_and_the_plan_replays() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    one = PruneDepth(ratio=0.5)
    plan, shorter = carried_out(model, one)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = one.read_plan(plan.model_dump(mode="json"))
    example = task_for().example
    replayed = one.restructure(model, again, trace(model, example), lissom.Task(example_inputs=example.args))
    replayed.load_state_dict(shorter.state_dict())
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(replayed(x), shorter(x))


# ---- what other amounts would do -------------------------------------------------------------------------------------


def test_every_amount_is_what_a_prune_of_that_amount_gives() -> None:
    model, task = net(), task_for()
    (step,) = foresee(model, task, lissom.Recipe([PruneDepth(macs_ratio=1.5, exclude=("blocks.0",))]), TARGET)
    own, *others = step.outlook
    assert own.cost == step.plan.predicted
    assert (own.ratio, own.units, own.units_before) == (None, "blocks", 3)
    assert own.units_after == 3 - len(step.plan.actions)
    assert [one.ratio for one in others] == [tenth / 10 for tenth in range(1, 10)]
    for one in others[1::5]:
        shorter = PruneDepth(ratio=one.ratio, exclude=("blocks.0",), recovery="none")
        (done,) = transform(model, task, lissom.Recipe([shorter]), TARGET)
        graph = trace(done.model, task.example).graph
        assert (one.cost.macs, one.cost.parameters, one.cost.bytes) == (graph.macs, graph.parameters, graph.bytes)
        assert (one.macs_ratio, one.size_ratio) == (step.before.macs / graph.macs, step.before.bytes / graph.bytes)
        assert one.units_after == 3 - len(done.plan.actions)


def test_importance_left_is_a_share_of_what_the_blocks_hold() -> None:
    model, task = net(), task_for()
    made = trace(model, task.example)
    one = PruneDepth(ratio=0.5)
    study = one.study(model, made, task, TARGET)
    half = depth_outlook(one, made.graph, study, ())[0]
    values = sorted(study.importance.values())
    assert half.importance == pytest.approx(sum(values[2:]) / sum(values))
    below = dataclasses.replace(study, importance={**study.importance, "blocks.1": -1e-3})
    assert depth_outlook(one, made.graph, below, ())[0].importance is None


# ---- why a graph -----------------------------------------------------------------------------------------------------


class Counting(Net):
    """Its own code asks the blocks for what an identity does not have."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x) if block.kind == "plain" else block.conv(x)
        return self.head(x.mean((2, 3)))


def test_the_reason_for_an_exported_graph_is_noted() -> None:
    torch.manual_seed(1)
    model, task = Counting(*SCALES).eval(), task_for()
    recipe = lissom.Recipe([PruneDepth(ratio=0.25, recovery="none")])
    (step,) = transform(model, task, recipe, TARGET)
    assert isinstance(step.model, GraphModule)
    assert "'Identity' object has no attribute 'kind'" in str(step.notes["exported_because"])
    (record,) = step_records([step])
    assert (record.module, record.reason) == ("exported graph", step.notes["exported_because"])
    (again,) = transform(step.model, task, recipe, TARGET)
    assert again.notes["exported_because"] == "the model is an exported graph"
    (own,) = transform(net(), task, recipe, TARGET)
    assert own.notes == {}
    assert step_records([own])[0].reason == ""


def test_more_than_all_blocks_hold_is_refused() -> None:
    with pytest.raises(GoalError, match="without all of its 4 residual blocks the model still has"):
        carried_out(net(), PruneDepth(macs_ratio=1000))


def test_an_excluded_block_stays_and_a_pattern_that_matches_nothing_is_named() -> None:
    plan, _ = carried_out(net(), PruneDepth(ratio=1.0, exclude=("blocks.0",), recovery="none"))
    assert [drop.layer for drop in plan.of(Drop)] == ["blocks.1", "blocks.2", "blocks.3"]
    assert [(s.layer, s.reason) for s in plan.skipped] == [("blocks.0", "it is excluded")]
    with pytest.raises(RecipeError, match=r"'block.0' matches no layer"):
        carried_out(net(), PruneDepth(ratio=0.5, exclude=("block.0",)))


@pytest.mark.parametrize("settings", [{}, {"ratio": 0.5, "macs_ratio": 2.0}])
def test_exactly_one_wish(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="PruneDepth needs exactly one of ratio, macs_ratio, parameters_ratio, got"):
        PruneDepth(**settings)  # pyright: ignore[reportArgumentType]
