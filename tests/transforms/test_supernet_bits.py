"""Bits as an axis of a supernet: what has one, what it costs, how candidates are judged, what `Quantize` does."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from tests.transforms.elastic_nets import images, net, space, task
from torch import nn

import lissom
from lissom.errors import GoalError, RecipeError, UsageError
from lissom.graph.agreement import apart
from lissom.graph.trace import trace
from lissom.measure.quality import evaluate
from lissom.metrics import accuracy
from lissom.pipeline.recording import done_text, step_records
from lissom.pipeline.reload import replay
from lissom.pipeline.transforming import Step, dry_run, transform
from lissom.target import load_target
from lissom.training.settings import Training
from lissom.transforms.architecture import Choose, Supernet
from lissom.transforms.architecture.deriving import rules_of
from lissom.transforms.architecture.extracting import extracted
from lissom.transforms.architecture.programs import Programs
from lissom.transforms.architecture.rounding import rounded
from lissom.transforms.architecture.space import Space
from lissom.transforms.base import SetBits, Work
from lissom.transforms.quantization.actions import StoreWeight
from lissom.transforms.quantization.precision import inherited

NOTHING: Any = None
RUNTIME = load_target("onnxruntime")
SHORT, ONCE = (Training(epochs=epochs, learning_rate=0.05, precision="float32") for epochs in (3, 1))


def settings(**given: object) -> Supernet:
    own = {"size_ratio": 5.0, "bits": (8, 4), "training": SHORT, "candidates": 5, "depth": 0.7, "samples": 32}
    return Supernet.model_validate({**own, **given})


@lru_cache
def spaced() -> Space:
    return space(net("residual"), bits=(8, 4), exclude=("head",), target="onnxruntime")


@lru_cache
def steps() -> list[Step]:
    return transform(net("residual"), task(), lissom.Recipe([settings(), lissom.Quantize()]), RUNTIME)


def test_a_block_has_one_axis_and_an_excluded_layer_stays_in_float() -> None:
    found = {axis.members: axis.choices for axis in spaced().axes if axis.kind == "bits"}
    blocks = {(f"blocks.{i}.first.weight", f"blocks.{i}.second.weight"): (32, 8, 4) for i in range(3)}
    assert found == {("stem.weight",): (32, 8, 4), **blocks, ("head.weight",): (32,)}


def test_bits_that_the_file_of_the_target_cannot_hold_are_no_choice() -> None:
    # Weights of ExecuTorch's integer kernels have 8 bits.
    found = space(net("residual"), bits=(8, 4), target="executorch")
    assert {axis.choices for axis in found.axes if axis.kind == "bits"} == {(32, 8)}


@pytest.mark.parametrize("seed", [1, 4])
def test_a_subnet_costs_the_bytes_that_quantize_predicts(seed: int) -> None:
    model, found = net("residual"), spaced()
    subnet = found.drawn(torch.Generator().manual_seed(seed))
    rules = rules_of(found, subnet)
    assert {8, 4} & set(rules.values())
    made = extracted(model, Programs(found), subnet, task(8).example).module
    step, traced = lissom.Quantize(precision=rules, calibration="minmax", corrections=()), trace(made, task(8).example)
    plan = step.plan(traced.graph, step.study(made, traced, task(8), RUNTIME), RUNTIME)
    assert found.cost(subnet).bytes == plan.predicted.bytes


def test_fewer_bits_are_farther_from_the_network() -> None:
    model, x = net("residual"), images(16, 5)
    gaps = [
        apart(model(x).detach(), rounded(model, {"*": bits}, 32, task(32), RUNTIME)(x).detach()) for bits in (32, 8, 4)
    ]
    assert gaps[0] < 1e-5 < gaps[1] < gaps[2]


def test_candidates_are_judged_as_they_are_rounded() -> None:
    first, given = steps()[0], task()
    note = first.notes["architecture"]
    assert isinstance(note, dict)
    rules = {action.layer: action.bits for action in first.plan.of(SetBits)}
    assert {8, 4} & set(rules.values())
    made = rounded(first.model, rules, 32, given, RUNTIME)
    value = evaluate(lambda batch: made(*batch.args), given.batches("validation"), accuracy, split="validation").value
    assert value == note["candidates"][note["chosen"]]["metric"]  # type: ignore[index, call-overload]
    assert value > 0.3


def test_candidates_are_timed_as_they_are_rounded() -> None:
    timed: list[nn.Module] = []

    def faster(module: nn.Module) -> float:
        timed.append(module)
        return 3.0

    wish = settings(size_ratio=None, latency_ratio=2.0, candidates=2, training=ONCE)
    model, given = net("residual"), task(32)
    transform(model, given, lissom.Recipe([wish, lissom.Quantize()]), RUNTIME, work=Work(faster=faster))
    (module,) = timed  # the smallest: the network itself is not timed
    assert "quantize_per_tensor" in str([node.target for node in trace(module, given.example).module.graph.nodes])


def test_quantize_carries_out_what_was_chosen() -> None:
    first, second = steps()
    wanted = {action.layer: action.bits for action in first.plan.of(SetBits)}
    held = {action.layer: action.bits for action in second.plan.of(StoreWeight)}
    assert held == {layer: bits for layer, bits in wanted.items() if bits != 32}
    assert 5 * second.plan.predicted.bytes <= trace(net("residual"), task(8).example).graph.bytes
    assert second.plan.settings["precision"] == wanted
    assert second.transform == lissom.Quantize()  # the recipe says nothing of bits
    assert "integers chosen for" in done_text(first.plan)
    (record, _) = step_records(steps())
    assert record.architecture is not None
    assert {one.layer: one.bits for one in record.architecture.layers if one.bits is not None} == wanted
    again = settings().read_plan(first.plan.model_dump(mode="json"))
    assert again == first.plan


def test_the_run_is_replayed_from_its_plans() -> None:
    plans, final = [step.plan for step in steps()], steps()[-1].model
    made = replay(net("residual"), task(8).example, lissom.Recipe([settings(), lissom.Quantize()]), plans)
    made.load_state_dict(final.state_dict())
    x = images(4, 7)
    assert torch.equal(made(x), final(x))


def test_a_dry_run_hands_bits_on_and_rules_of_the_recipe_win() -> None:
    recipe = lissom.Recipe([settings(), lissom.Quantize(precision={"head": 32})])
    first, second = dry_run(net("residual"), task(32), recipe, RUNTIME)
    (head,) = (one.chosen for one in first.plan.of(Choose) if one.axis == "bits" and one.layer == "head")
    assert head != 32
    assert {action.layer for action in second.plan.of(StoreWeight)} == {
        action.layer for action in first.plan.of(SetBits) if action.bits != 32 and action.layer != "head"
    }


def test_a_network_that_stays_in_float_is_not_rounded_anywhere() -> None:
    found = spaced()
    assert rules_of(found, found.largest) == {"*": 32}
    assert rules_of(space(net("residual")), space(net("residual")).largest) == {}


def test_a_layer_that_was_split_stands_for_its_parts_and_one_that_is_gone_for_nothing() -> None:
    parts = nn.Sequential(nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8)), nn.Linear(8, 4))
    graph = trace(parts, lissom.Task(example_inputs=(torch.randn(2, 8),)).example).graph
    assert inherited(graph, {"0": 4, "1": 8, "2": 8}) == {"0.*": 4, "1": 8}


def test_bits_without_a_wish_that_counts_them_are_refused() -> None:
    with pytest.raises(RecipeError, match="macs_ratio counts neither"):
        lissom.Recipe.from_data([{"Supernet": {"macs_ratio": 2, "bits": [8]}}, "Quantize"])


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (lissom.Finetune(epochs=1), "no Quantize carries them out"),
        (lissom.Quantize(weight_bits=4), "weight_bits=4"),
        (lissom.Quantize(precision="auto", size_ratio=4), "precision='auto'"),
        (lissom.Quantize(mode="weights"), "mode='weights'"),
        (lissom.Quantize(mode="dynamic"), "mode='dynamic'"),
    ],
)
def test_a_recipe_whose_bits_nothing_carries_out_is_refused(last: lissom.Transform, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        lissom.Recipe([settings(), last])


def test_a_size_out_of_reach_names_the_nearest() -> None:
    with pytest.raises(GoalError, match=r"size_ratio=5000\) is out of reach: the smallest subnet comes to \d"):
        list(
            dry_run(net("residual"), task(8), lissom.Recipe([settings(size_ratio=5000.0), lissom.Quantize()]), RUNTIME)
        )


def test_bits_need_a_target() -> None:
    model, given, step = net("residual"), task(8), settings()
    traced = trace(model, given.example)
    with pytest.raises(UsageError, match="rounds candidates as the target does"):
        step.apply(model, step.plan(traced.graph, step.study(model, traced, given, RUNTIME), RUNTIME), traced, given)
