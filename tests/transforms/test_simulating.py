"""Rounded graphs in fewer passes: the same numbers, bit by bit, and so the same plans."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from lissom.graph.trace import Trace, trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.quantization import Quantize, corrections, writing
from lissom.transforms.quantization.rewrite import OPS, widens
from lissom.transforms.quantization.simulating import RESTORING, quick
from small_models import Branches, Mobile, Residual, Transformer, settled

MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (3, 8, 8)),
    "mobile": (Mobile, (3, 8, 8)),
    "transformer": (Transformer, (4, 8)),
    "branches": (Branches, (3, 8, 8)),
}
SETTINGS = {
    "8 bits": Quantize(),
    "4 bits": Quantize(weight_bits=4, activation_bits=4),
    "dynamic": Quantize(mode="dynamic"),
    "groups": Quantize(mode="weights", weight_bits=4, symmetric=False),
}


@functools.cache
def traced(name: str) -> tuple[nn.Module, Trace, Task, Tensor]:
    torch.manual_seed(0)
    kind, shape = MODELS[name]
    model = settled(kind())
    data = torch.randn(48, *shape, generator=torch.Generator().manual_seed(1))
    task = Task(example_inputs=(data[:2],), calibration=list(data.split(12)))
    return model, trace(model, task.example), task, data


def rounded(name: str, setting: Quantize, target: str) -> nn.Module:
    model, made, task, _ = traced(name)
    table = load_target(target)
    return setting.apply(model, setting.plan(made.graph, setting.study(model, made, task, table), table), made, task)


@pytest.mark.parametrize(
    ("name", "setting", "target"),
    [
        ("residual", "8 bits", "openvino"),
        ("mobile", "8 bits", "onnxruntime"),
        ("transformer", "8 bits", "onnxruntime"),
        ("transformer", "dynamic", "onnxruntime"),
        ("branches", "4 bits", "onnxruntime"),
        ("transformer", "groups", "onnxruntime"),
    ],
)
def test_gives_the_same_numbers_bit_by_bit(name: str, setting: str, target: str) -> None:
    module = rounded(name, SETTINGS[setting], target)
    assert isinstance(module, GraphModule)
    before = str(module.graph)
    made, data = quick(module), traced(name)[3]
    with torch.no_grad():
        for x in (data, data * 20, data[:1]):
            assert torch.equal(made(x), module(x))
    assert str(module.graph) == before
    assert not [node for node in made.graph.nodes if node.target in RESTORING or widens(made, node)]
    held = dict(module.named_parameters())
    assert all(held[key] is value for key, value in made.named_parameters())


def test_plans_are_those_of_the_graph_that_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made, task, _ = traced("residual")
    table = load_target("openvino")
    for setting in (Quantize(), Quantize(corrections=("equalize", "smooth", "bias"), overflow_fix="on")):
        plan = setting.plan(made.graph, setting.study(model, made, task, table), table)
        with monkeypatch.context() as patch:
            for place in (corrections, writing):
                patch.setattr(place, "quick", lambda module: module)
            slow = setting.plan(made.graph, setting.study(model, made, task, table), table)
        assert plan == slow


def test_weights_of_16_bits_are_widened_once() -> None:
    layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    x, table = torch.randn(3, 64), load_target("onnxruntime")
    task, setting = Task(example_inputs=(x,)), Quantize(precision=16)
    made = trace(layers, task.example)
    module = setting.apply(layers, setting.plan(made.graph, None, table), made, task)
    assert isinstance(module, GraphModule)
    folded = quick(module)
    assert [widens(module, node) for node in module.graph.nodes].count(True) == 2
    assert not [node for node in folded.graph.nodes if widens(folded, node)]
    assert torch.equal(folded(x), module(x))


def test_what_is_no_graph_comes_back() -> None:
    layer = nn.Linear(2, 2)
    assert quick(layer) is layer


def test_other_readers_of_the_integers_keep_them() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steps = OPS.quantize_per_tensor.default(x, 0.5, 3, 0, 255, torch.uint8)
            restored = OPS.dequantize_per_tensor.default(steps, 0.5, 3, 0, 255, torch.uint8)
            return restored + steps.float()

    x = torch.randn(5, 4)
    module = trace(Both(), Batch((x,))).module
    assert torch.equal(quick(module)(x), module(x))
