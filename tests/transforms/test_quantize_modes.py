"""Ranges at run time: `per_sample`, where no neighbour in the batch matters, and `hybrid`, where they pay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import pydantic
import pytest
import torch
from torch import Tensor, nn

from lissom.errors import TargetError
from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan, Work
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import RoundActivation, RoundBias, RoundDynamically, StoreWeight
from lissom.transforms.quantization.hybrid import better
from small_models import Residual, settled

PER_SAMPLE = Quantize(mode="per_sample")


class Heavy(nn.Module):
    """Two layers; the data makes one example in eight far larger than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(32, 48), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x)))


@pytest.fixture(scope="module")
def residual() -> tuple[nn.Module, Trace, Task, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = settled(Residual()), torch.randn(6, 3, 8, 8)
    task = Task(example_inputs=(x[:2],))
    return model, trace(model, task.example), task, x


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_sample_does_not_see_its_neighbours_and_runtimes_agree(
    residual: tuple[nn.Module, Trace, Task, Tensor], target: str, tmp_path: Path
) -> None:
    pytest.importorskip(target)
    model, made, task, x = residual
    table = load_target(target)
    plan = PER_SAMPLE.plan(made.graph, PER_SAMPLE.study(model, made, task, table), table)
    assert {action.layer for action in plan.of(RoundDynamically)} == {"stem.0", "body.0", "fc"}
    assert {action.granularity for action in plan.of(RoundDynamically)} == {"sample"}
    module = PER_SAMPLE.apply(model, plan, made, task)
    loud = torch.cat([x[:1], 300 * x[1:]])
    runtime = runtime_of(table)
    artifact = runtime.export(module, task.example, target, tmp_path, "model")
    runner = runtime.load(artifact, tmp_path, 1)
    with torch.no_grad():
        alone, together = module(x[:1]), module(loud)
    # Kernels may sum in another order for another batch, which moves no step here.
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    found = run(runner, artifact, Batch((loud,)))[0]
    torch.testing.assert_close(run(runner, artifact, Batch((x[:1],)))[0], found[:1], rtol=1e-5, atol=1e-5)
    steps = (together.amax(1) - together.amin(1)) / 255
    assert bool(((found - together).abs().amax(1) <= steps).all())
    assert "sample_quantize" in str(module.graph)  # pyright: ignore[reportAttributeAccessIssue]


def test_four_bits_of_a_weight_that_is_multiplied_by_steps_are_stored_as_four(
    residual: tuple[nn.Module, Trace, Task, Tensor], tmp_path: Path
) -> None:
    model, made, task, x = residual
    table, quantize = load_target("onnxruntime"), Quantize(mode="per_sample", weight_bits=4, corrections=())
    plan = quantize.plan(made.graph, quantize.study(model, made, task, table), table)
    assert {action.stored for action in plan.of(StoreWeight)} == {4}
    module = quantize.apply(model, plan, made, task)
    artifact = runtime_of(table).export(module, task.example, "onnxruntime", tmp_path, "model")
    held = onnx.load(tmp_path / artifact.files[0]).graph.initializer
    assert sum(one.data_type == onnx.TensorProto.INT4 for one in held) == len(plan.of(StoreWeight))
    assert not any(one.data_type == onnx.TensorProto.INT8 and len(one.dims) > 1 for one in held)
    (found,) = run(runtime_of(table).load(artifact, tmp_path, 1), artifact, Batch((x,)))
    with torch.no_grad():
        wanted = module(x)
    assert bool(((found - wanted).abs().amax(1) <= (wanted.amax(1) - wanted.amin(1)) / 255).all())


def test_one_range_for_the_tensor_does_see_them(residual: tuple[nn.Module, Trace, Task, Tensor]) -> None:
    model, made, task, x = residual
    table = load_target("onnxruntime")
    dynamic = Quantize(mode="dynamic")
    module = dynamic.apply(model, dynamic.plan(made.graph, None, table), made, task)
    loud = torch.cat([x[:1], 300 * x[1:]])
    with torch.no_grad():
        assert float((module(loud)[:1] - module(x[:1])).abs().max()) > 0.05


def test_inputs_without_an_axis_of_examples_are_left() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.transpose(0, 1)).transpose(0, 1)

    made = trace(Turned().eval(), Batch((torch.randn(2, 4, 5),)))
    plan = PER_SAMPLE.plan(made.graph, None, load_target("onnxruntime"))
    assert not plan.actions
    assert [skip.layer for skip in plan.skipped] == ["fc"]
    assert "first axis" in plan.skipped[0].reason


def test_targets_and_fields_that_cannot(residual: tuple[nn.Module, Trace, Task, Tensor]) -> None:
    with pytest.raises(TargetError, match=r"per_sample.*onnxruntime"):
        PER_SAMPLE.plan(residual[1].graph, None, load_target("executorch"))
    with pytest.raises(pydantic.ValidationError, match="mode='per_sample'"):
        Quantize(mode="per_sample", activation_bits=4)
    with pytest.raises(pydantic.ValidationError, match="calibration data"):
        Quantize(mode="per_sample", corrections=("bias",))
    with pytest.raises(pydantic.ValidationError, match="mode='hybrid' has none"):
        Quantize.model_validate({"mode": "hybrid", "training": {"epochs": 1}})


def heavy() -> tuple[nn.Module, Trace, Task]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, x = Heavy().eval(), torch.randn(64, 32)
    with torch.no_grad():
        model.first.weight /= 8
    x[::8] *= 200
    task = Task(example_inputs=(x[:2],), calibration=[x])
    return model, trace(model, task.example), task


def chosen(setting: Quantize, work: Work, target: str = "onnxruntime") -> tuple[Plan, float]:
    model, made, task = heavy()
    table = load_target(target)
    plan = setting.plan(made.graph, setting.study(model, made, task, table, work), table)
    rounded = setting.apply(model, plan, made, task)
    with torch.no_grad():
        pieces = [batch.args[0][i : i + 1] for batch in task.batches("calibration") for i in range(batch.size)]
        wanted, got = (torch.cat([one(piece) for piece in pieces]) for one in (model, rounded))
    return plan, float((wanted - got).square().sum() / wanted.square().sum())


def test_hybrid_takes_ranges_at_run_time_where_fixed_ones_lose_much() -> None:
    notes: dict[str, list[dict[str, object]]] = {}
    work = Work(note=lambda name, value: notes.__setitem__(name, value))  # type: ignore[arg-type]
    setting = Quantize(mode="hybrid", calibration="minmax", corrections=())
    plan, error = chosen(setting, work)
    static, before = chosen(Quantize(calibration="minmax", corrections=()), Work())
    (action,) = plan.of(RoundDynamically)
    assert action.layer == "first"
    assert "ranges at run time" in action.reason
    assert {a.layer for a in plan.of(StoreWeight)} == {a.layer for a in static.of(StoreWeight)}
    readers = {node for a in plan.of(RoundActivation) for node, _ in a.readers}
    assert "linear_1" in readers
    assert "linear" not in readers
    assert {a.layer for a in plan.of(RoundBias)} == {"head"}
    assert error < before / 4
    for line in notes["hybrid"]:
        assert line["dynamic"] == better((line["error_static"], line["error_dynamic"]))  # type: ignore[arg-type]
    assert setting.read_plan(plan.model_dump(mode="json")) == plan


def test_hybrid_stays_static_where_run_time_ranges_are_slower_than_float() -> None:
    def race(modules: Mapping[str, nn.Module], _: Batch) -> dict[str, tuple[float, ...]]:
        return {"float": (1.0,), "integer": (1.5,)}

    setting = Quantize(mode="hybrid", calibration="minmax", corrections=())
    assert not chosen(setting, Work(race=race))[0].of(RoundDynamically)


def test_hybrid_is_static_on_even_data(residual: tuple[nn.Module, Trace, Task, Tensor]) -> None:
    model, made, _, x = residual
    task, table = Task(example_inputs=(x[:2],), calibration=[x]), load_target("openvino")
    plans = [
        Quantize(mode=mode, calibration="minmax", corrections=()).plan(
            made.graph,
            Quantize(mode=mode, calibration="minmax", corrections=()).study(model, made, task, table),
            table,
        )
        for mode in ("hybrid", "static")
    ]
    assert plans[0].actions == plans[1].actions


def test_little_error_is_not_worth_it() -> None:
    assert better((1e-3, 2e-4))
    assert not better((1e-3, 3e-4))
    assert not better((9e-7, 1e-9))
