"""Supernet, then 2:4, then int8 in one recipe: what each step promised holds after the last, in the file too."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from tests.transforms.elastic_nets import images, net, task
from torch import nn

import lissom
from lissom.export.onnxruntime import OnnxRuntime
from lissom.functional.nm import Pattern
from lissom.graph.trace import trace
from lissom.pipeline.transforming import Step, transform
from lissom.target import load_target
from lissom.training.settings import Training
from lissom.transforms.base import SetBits
from lissom.transforms.quantization.actions import StoreWeight
from lissom.transforms.sparsity import ZeroWeights

HALF = Pattern(2, 4)
TARGET = load_target("onnxruntime")
SEARCH = lissom.Supernet(
    size_ratio=3, bits=(8,), round_to=4, training=Training(epochs=1, learning_rate=0.05, precision="float32"),
    candidates=3, depth=0.7, samples=32,
)  # fmt: skip


@lru_cache
def steps() -> list[Step]:
    recipe = lissom.Recipe([
        SEARCH,
        lissom.Sparsify(pattern="2:4"),
        lissom.Finetune(epochs=1, precision="float32"),
        lissom.Fold(),
        lissom.Quantize(),
    ])  # fmt: skip
    return transform(net("residual"), task(), recipe, TARGET)


def sparse() -> dict[str, torch.Tensor]:
    """The weights as `Sparsify` left them."""
    made = dict(steps()[1].model.named_parameters())
    found = {one.parameter: made[one.parameter].detach() for one in steps()[1].plan.of(ZeroWeights)}
    assert len(found) >= 2
    return found


def test_the_subnet_keeps_its_shape_to_the_end() -> None:
    wanted = steps()[0].plan.predicted.macs
    assert wanted < trace(net("residual"), task(8).example).graph.macs
    assert [trace(step.model, task(8).example).graph.macs for step in steps()] == [wanted] * 5
    assert type(steps()[3].model) is type(net("residual"))


def test_zeros_are_the_same_after_training_and_folding() -> None:
    for at in (2, 3):
        made = dict(steps()[at].model.named_parameters())
        for name, weight in sparse().items():
            assert HALF.held_by(made[name].detach()), name
            assert torch.equal(made[name] == 0, weight == 0), name
            assert not torch.equal(made[name], weight), name


def test_the_file_holds_the_subnet_in_the_bits_that_were_chosen_with_the_same_zeros(tmp_path: Path) -> None:
    wanted = {action.layer for action in steps()[0].plan.of(SetBits) if action.bits == 8}
    stored = {action.layer: action.parameter for action in steps()[-1].plan.of(StoreWeight)}
    assert set(stored) == wanted
    artifact = OnnxRuntime().export(steps()[-1].model, task(8).example, "onnxruntime", tmp_path, "model")
    file = onnx.load(tmp_path / artifact.files[0])
    integers = [numpy_helper.to_array(one) for one in file.graph.initializer if one.data_type == onnx.TensorProto.INT8]
    for name, weight in sparse().items():
        # Linear layers leave as products with the transposed weight.
        forms = [form for own in integers for form in (own, own.T) if form.shape == weight.shape]
        zeros = (weight == 0).numpy()
        # A weight of few values may round to zero where it was not; what was zero is zero.
        assert any((own[zeros] == 0).all() and (own[~zeros] != 0).mean() > 0.9 for own in forms), name
    runner = OnnxRuntime().load(artifact, tmp_path, 1)
    x = images(16, 7)
    with torch.no_grad():
        simulated = steps()[-1].model(x).numpy()
    answered = np.asarray(next(iter(runner((x.numpy(),)))))
    assert np.abs(answered - simulated).max() < 0.02 * np.abs(simulated).max()


def test_no_convolution_of_the_subnet_is_left_out_of_the_pattern_without_a_reason() -> None:
    layers = {n for n, m in steps()[0].model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    told = {one.layer for one in steps()[1].plan.of(ZeroWeights)} | {one.layer for one in steps()[1].plan.skipped}
    assert layers <= told
