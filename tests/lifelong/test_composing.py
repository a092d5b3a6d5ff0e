"""Prune, then pack, then int8 on a runtime: what each step promised holds after the last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import lissom
from lissom.graph.trace import evaluation
from lissom.lifelong import Lifelong, Pack, Training
from lissom.pipeline.exporting import export_model
from lissom.pipeline.transforming import transform
from lissom.target import load_target
from lissom.task import Batch, Task


def pictures(seed: int) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, 8, 8, generator=generator)
    y = (x.mean((2, 3)).argmax(1) + seed) % 3
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    return Task(
        example_inputs=(x[:4],), train=batches, validation=batches, loss=F.cross_entropy, metric=lissom.metrics.accuracy
    )


def convolutions() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
        ).eval()  # fmt: skip


def test_prune_pack_int8(tmp_path: Path) -> None:
    target = load_target("onnxruntime")
    recipe = lissom.Recipe([lissom.Prune(ratio=0.5, round_to=1)])
    small = transform(convolutions(), pictures(0), recipe, target)[-1].model
    shape = small.get_parameter("3.weight").shape
    assert shape.numel() <= 16 * 16 * 9 / 2
    quick = Training(epochs=2, optimizer="adamw", learning_rate=0.01, precision="float32", channels_last=False)
    lifelong = Lifelong.create(small, tmp_path / "folder", pictures(0), bits=8)
    for at in range(2):
        lifelong.add(f"t{at}", pictures(at), Pack(share=0.25, training=quick, retraining=quick))
    assert lifelong.prove().held

    made = lifelong.model("t0")
    used = made.get_submodule("3").weight
    assert isinstance(used, torch.Tensor)
    assert used.shape == shape  # pruned
    assert int((used != 0).sum()) <= int(0.25 * used.numel())  # masked

    quantized = transform(made, pictures(0), lissom.Recipe([lissom.Fold(), lissom.Quantize()]), target)[-1].model
    artifact = export_model(
        made, pictures(0), lissom.Recipe([lissom.Fold(), lissom.Quantize()]), target="onnxruntime", out=tmp_path / "out"
    )
    assert artifact.files
    x = pictures(0).example_inputs[0]
    with evaluation(made), torch.no_grad():
        wanted, found = made(x).numpy(), quantized(x).numpy()
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    held = {tuple(v.shape): v for v in quantized.state_dict().values() if v.shape == shape}
    (integers,) = held.values()
    assert (integers[used == 0] == 0).all()  # what the task does not use is zero in int8 as well
    assert integers.dtype == torch.int8 or (integers != 0).any()


def test_any_batch_is_answered_and_exported_from_a_folder_that_was_copied(tmp_path: Path) -> None:
    lifelong = Lifelong.create(convolutions(), tmp_path / "folder", pictures(0))
    quick = Training(epochs=1, precision="float32", channels_last=False)
    lifelong.add("t0", pictures(0), Pack(share=0.25, training=quick, retraining=quick))
    (tmp_path / "folder").rename(tmp_path / "moved")
    again = Lifelong.open(tmp_path / "moved", convolutions())
    # Global pooling takes other sizes: such a task is no other backbone's.
    x = torch.randn(5, 3, 12, 12)
    assert again.model("t0")(x).shape == (5, 3)
    assert again.prove().held
    assert again.infer(Batch((torch.randn(2, 3, 8, 8),))).names == ("t0", "t0")
