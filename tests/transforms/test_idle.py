"""Operators put back in float whose integers a runtime does not use: planted ones, told and really read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pydantic
import pytest
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn

from lissom.errors import UsageError
from lissom.graph.trace import Trace, trace
from lissom.pipeline.timing import Stopwatch
from lissom.target import Target, load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Plan, Race, Work
from lissom.transforms.quantization import Quantize, placement
from lissom.transforms.quantization.actions import RoundActivation, StoreWeight
from lissom.transforms.quantization.idle import idle, slower
from small_models import settled

SETTING = Quantize(calibration="minmax", corrections=())


class Pooled(nn.Module):
    """ONNX Runtime has no integer kernel for a pooling of 16 to 3; OpenVINO adds two linear layers in float."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x))
        added = torch.tanh(self.left(y)) + torch.sigmoid(self.right(y))
        return torch.tanh(F.adaptive_avg_pool2d(self.second(y), (3, 3))), torch.tanh(added)


@pytest.fixture(scope="module")
def planted() -> tuple[nn.Module, Trace, Task]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = settled(Pooled()), torch.randn(8, 4, 16, 16)
    task = Task(example_inputs=(x[:2],), calibration=[x])
    return model, trace(model, task.example), task


def planned(
    planted: tuple[nn.Module, Trace, Task], target: Target, work: Work, setting: Quantize = SETTING
) -> tuple[Plan, dict[str, str]]:
    model, made, task = planted
    plan = setting.plan(made.graph, setting.study(model, made, task, target, work), target)
    return plan, {skip.layer: skip.reason for skip in plan.skipped if "put back" in skip.reason}


def told(ran: Mapping[str, str]) -> Work:
    return Work(kernels=lambda _: ran)


def test_a_product_in_float_is_put_back_and_the_rest_stays(planted: tuple[nn.Module, Trace, Task]) -> None:
    target, graph = load_target("openvino"), planted[1].graph
    plan, put = planned(planted, target, told({"conv2d": "int8", "linear": "float32", "linear_1": "unknown"}))
    assert set(put) == {"left"}
    assert "OpenVINO" in put["left"]
    assert {action.layer for action in plan.of(StoreWeight)} == {"first", "second", "right"}
    assert "linear" not in {node for action in plan.of(RoundActivation) for node, _ in action.readers}
    assert graph.by_name["linear"].layer == "left"


def test_nothing_is_put_back_where_nothing_runs_in_integers(planted: tuple[nn.Module, Trace, Task]) -> None:
    names = planted[1].graph.by_name
    plan, put = planned(planted, load_target("openvino"), told(dict.fromkeys(names, "float32")))
    assert not put
    assert plan == planned(planted, load_target("openvino"), Work())[0]


def test_a_sum_or_pooling_goes_only_if_a_rounding_goes_with_it(planted: tuple[nn.Module, Trace, Task]) -> None:
    graph, target = planted[1].graph, load_target("openvino")
    chosen, _ = placement.partition(graph, target.integers.ops, target, ())
    ran = {node.name: "int8" if node.op in ("conv2d", "linear") else "float32" for node in chosen}
    names = {node.name: node.op for node in chosen}
    found = {names[name] for name in idle(graph, chosen, target, ran)}
    assert found == {"add", "adaptive_avg_pool2d"}  # both read what nobody else reads


def test_off_reads_nothing(planted: tuple[nn.Module, Trace, Task]) -> None:
    def never(_: nn.Module) -> dict[str, str]:
        raise AssertionError

    planned(planted, load_target("openvino"), Work(kernels=never), SETTING.model_copy(update={"remove_idle": "off"}))


@pytest.mark.parametrize(("target", "kind"), [("onnxruntime", "adaptive_avg_pool2d"), ("openvino", "add")])
def test_what_the_runtime_leaves_in_float_is_found(
    planted: tuple[nn.Module, Trace, Task], target: str, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip(target)
    table = load_target(target)
    watch = Stopwatch(planted[0], planted[2], table, 1, 1, tmp_path / "timed")
    plan, put = planned(planted, table, Work(kernels=watch.kernels))
    graph = planted[1].graph
    assert {graph.by_name[layer.rpartition("/")[2]].op for layer in put} == {kind}
    # The file is read once more: what is left in it is used.
    ran = watch.kernels(SETTING.apply(planted[0], plan, planted[1], planted[2]))
    products = {name for action in plan.of(StoreWeight) for name in action.nodes}
    assert {ran[name] for name in products} == {"int8"}


def slow_convolutions(gain: float) -> Race:
    """Convolutions that are slower in integers, linear layers that are not; the whole gains so much without them."""

    def race(modules: Mapping[str, nn.Module], _: Batch) -> dict[str, tuple[float, ...]]:
        if "lighter" in modules:
            return {"integers": (gain,), "lighter": (1.0,)}
        conv = any(held.ndim == 4 for held in modules["float"].buffers())
        return {"float": (1.0,), "integer": (2.0 if conv else 0.5,)}

    return race


@pytest.mark.parametrize(("gain", "wanted"), [(1.5, {"first", "second"}), (1.0, set[str]())])
def test_timing_puts_slow_layers_back_if_the_whole_gains(
    planted: tuple[nn.Module, Trace, Task], gain: float, wanted: set[str]
) -> None:
    notes: dict[str, JsonValue] = {}
    work = Work(race=slow_convolutions(gain), note=notes.__setitem__)
    _, put = planned(planted, load_target("openvino"), work, SETTING.model_copy(update={"remove_idle": "timed"}))
    assert set(put) == wanted
    assert notes["slow in integers"] == {
        "layers": ["first", "second"],
        "faster_without": gain,
        "put_back": bool(wanted),
    }


def test_timing_is_for_runs_that_measure(planted: tuple[nn.Module, Trace, Task]) -> None:
    with pytest.raises(UsageError, match="dry run"):
        planned(planted, load_target("openvino"), Work(), SETTING.model_copy(update={"remove_idle": "timed"}))
    assert slower((1.0, 1.1))
    assert not slower((1.0, 1.01))


def test_timing_needs_fixed_ranges() -> None:
    with pytest.raises(pydantic.ValidationError, match="fixed ranges"):
        Quantize(mode="dynamic", remove_idle="timed")
