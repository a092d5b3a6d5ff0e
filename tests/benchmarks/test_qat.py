"""QAT at toy size: a few random images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.cifar import project
from benchmarks.context import Context
from benchmarks.experiments import qat

import lissom
from lissom.training import finetune as loop


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 10


def test_it_compares_all_three_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = lissom.Task(
        example_inputs=(torch.zeros(1, 3, 8, 8),),
        train=lissom.data.Batches(images(20, 0), batch_size=10, shuffle=True),
        test=lissom.data.Batches(images(20, 1), batch_size=10),
        loss=F.cross_entropy,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = project().ResNet(8).eval()
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    training = qat.QAT(epochs=2, precision="float32", channels_last=False, views=1)
    found = qat.compared(context, model, task, training)
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert [run.name for run in found.runs] == ["after training", "trained", "float, fine-tuned"]
    assert found.runs[0].figures["seconds"] == 0 < found.runs[1].figures["seconds"]
    before = found.control[0].value
    assert found.value["drop"].value == pytest.approx(before - found.runs[1].figures["accuracy %"])
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained again"))
    assert qat.compared(context, model, task, training) == found
