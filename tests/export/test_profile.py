"""Kernels timed one by one inside the whole network, and whose layer each is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import small_models
from lissom.data import Batches
from lissom.export.base import Ran, arrays
from lissom.export.catalogue import runtime_of
from lissom.export.kernels import product_times
from lissom.graph.cost import MACS
from lissom.graph.trace import trace
from lissom.pipeline.profiling import by_layer, layer_times
from lissom.pipeline.transforming import transform
from lissom.recipe import Recipe
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize


class Uneven(nn.Module):
    """The second layer has a hundred times the products of the others; an addition joins two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.heavy = nn.Conv2d(64, 64, 5, padding=2)
        self.light = nn.Conv2d(64, 64, 1)
        self.last = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.heavy(x) + self.light(x))
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def uneven():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 16, 16)
    return Uneven().eval(), Task((x[:1],), calibration=Batches((x, torch.zeros(8)), batch_size=8))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("rounded", [False, True])
def test_every_layer_has_its_time(uneven, name, rounded, tmp_path):
    model, task = uneven
    target = load_target(name)
    runtime = runtime_of(target)
    if not runtime.availability().found:
        pytest.skip(f"{name} is not installed")
    after = transform(model, task, Recipe([Fold(), *([Quantize()] if rounded else [])]), target)[-1].model
    artifact = runtime.export(after, task.example, name, tmp_path, "model")
    batch = Batch((task.example_inputs[0].repeat(4, 1, 1, 1),))
    found = {one.name: one for one in layer_times(after, task, target, artifact, tmp_path, 1, batch)}
    assert set(found) == {"first", "heavy", "light", "last"}
    assert (found["heavy"].inputs, found["heavy"].outputs, found["heavy"].macs) == (64, 64, 64 * 64 * 25 * 256)
    assert (found["last"].inputs, found["last"].outputs) == (64, 4)
    assert found["heavy"].ms > found["first"].ms + found["light"].ms
    assert min(one.ms for one in found.values()) > 0.0
    ran = runtime.profile(artifact, tmp_path, 1, arrays(batch))
    assert {one.node for one in ran if not one.product} <= {""}
    assert sum(one.product for one in ran) == 4


@pytest.mark.parametrize("name", ["residual", "mobile", "transformer"])
def test_products_of_every_family_are_told(name, tmp_path):
    model, example, _ = small_models.traced(name)
    runtime = runtime_of(load_target("onnxruntime"))
    artifact = runtime.export(model, example, "onnxruntime", tmp_path, name)
    graph = trace(model, example).graph
    times = product_times(runtime.profile(artifact, tmp_path, 1, arrays(example)), graph)
    wanted = {node.name for node in graph.nodes if node.op in MACS}
    assert set(times) == wanted


def test_what_runs_between_products_is_of_the_one_before_it():
    _, _, traced = small_models.traced("mlp")
    first, second = [node.name for node in traced.graph.nodes if node.op in MACS][:2]

    def ran(op: str, ms: float, node: str = "") -> Ran:
        return Ran(op=op, ms=ms, product=bool(node), node=node)

    kernels = [
        ran("Reorder", 1.0),
        ran("Gemm", 2.0, first),
        ran("Relu", 4.0),
        ran("Gemm", 8.0, second),
        ran("Add", 16.0),
    ]
    assert product_times(kernels, traced.graph) == {first: 7.0, second: 24.0}
    foreign = Ran(op="Gemm", ms=1.0, product=True, node="")
    assert product_times([*kernels, foreign], traced.graph) == {}, "nobody knows whose time it is"
    assert [one.name for one in by_layer(traced.graph, {first: 1.0})] == [traced.graph.by_name[first].layer]


def test_a_runtime_without_a_profiler_says_nothing(tmp_path):
    model, example, _ = small_models.traced("mlp")
    runtime = runtime_of(load_target("torch"))
    artifact = runtime.export(model, example, "torch", tmp_path, "mlp")
    assert runtime.profile(artifact, tmp_path, 1, arrays(example)) == ()
    assert layer_times(model, Task(example.args), load_target("torch"), artifact, tmp_path, 1, example) == ()
