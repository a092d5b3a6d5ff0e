"""Corrected models and weights of few bits on the runtimes: at most one step from the simulation."""

from __future__ import annotations

import pytest
import torch
from runtime_nets import Net, dynamic_precision, example, nets, steps_apart
from torch import nn

from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.graph.trace import trace
from lissom.target import load_target
from lissom.task import Batch, Task
from lissom.transforms.base import Work
from lissom.transforms.quantization import Quantize
from lissom.transforms.quantization.actions import StoreWeight

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::UserWarning:executorch"),
]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "executorch"])
def test_corrected_models_run_as_simulated(name, bits, tmp_path):
    target = load_target(name)
    runtime = runtime_of(target)
    if not runtime.availability().found:
        pytest.skip(runtime.availability().detail)
    net = nets()["residual"]
    corrections = ("equalize", "smooth", "bias") if bits == 8 else ("smooth", "gptq", "bias")
    quantize = Quantize(calibration="minmax", weight_bits=bits, corrections=corrections)
    task = Task(example_inputs=(net.inputs(1),), calibration=[net.inputs(64, seed=2)])
    made = trace(net.model, task.example)
    notes: dict = {}
    work = Work(note=notes.__setitem__)
    plan = quantize.plan(made.graph, quantize.study(net.model, made, task, target, work), target)
    model = quantize.apply(net.model, plan, made, task, work)
    assert any(trial["accepted"] for tried in notes.values() for trial in tried)
    artifact = runtime.export(model, example(net), name, tmp_path, "corrected")
    x = net.inputs(40)
    with torch.no_grad():
        simulated = model(x)
    (found,) = run(runtime.load(artifact, tmp_path, 1), artifact, Batch((x,)))
    assert steps_apart(model, simulated, found) <= 1.0 + 1e-3


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_four_bits_take_half_a_byte_and_run_in_integers(name, mode, tmp_path):
    target = load_target(name)
    runtime = runtime_of(target)
    if not runtime.availability().found:
        pytest.skip(runtime.availability().detail)
    net = Net(nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 32)), (128,), 2, 128)
    x = net.inputs(8)
    task = Task(example_inputs=(net.inputs(1),), calibration=[net.inputs(64, seed=2)])
    made = trace(net.model, task.example)
    integers = mode == "static" or dynamic_precision(name) == "int8 dynamic"
    kernels, sizes, predicted = {}, {}, {}
    for bits in (8, 4, 2):
        quantize = Quantize(mode=mode, weight_bits=bits, corrections=())
        study = quantize.study(net.model, made, task, target)
        plan = quantize.plan(made.graph, study, target)
        assert {action.stored for action in plan.of(StoreWeight)} == {max(bits, 4)}
        model = quantize.apply(net.model, plan, made, task)
        artifact = runtime.export(model, example(net), name, tmp_path, f"bits{bits}")
        with torch.no_grad():
            (found,) = run(runtime.load(artifact, tmp_path, 1), artifact, Batch((x,)))
            if integers:
                assert steps_apart(model, model(x), found) <= 1.0 + 1e-3
        kernels[bits] = {(k.node, k.precision) for k in runtime.kernels(artifact, tmp_path)}
        sizes[bits], predicted[bits] = artifact.size_bytes, plan.predicted.bytes
    weights = 128 * 96 + 96 * 32
    assert kernels[4] == kernels[2] == kernels[8] != set()
    assert all(precision.startswith("int8") == integers for _, precision in kernels[4])
    assert predicted[8] - predicted[4] == weights // 2
    # Two more nodes and their names are all that is added.
    assert sizes[8] - sizes[4] == pytest.approx(weights // 2, abs=400)
    assert sizes[4] == sizes[2]
