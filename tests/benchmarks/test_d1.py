"""D1 at toy size: a few random images, one block of data an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.context import Context
from benchmarks.experiments import d1

import lissom
from lissom.training import finetune as loop
from lissom.training.settings import Training


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 10


def test_it_trains_both_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(d1, "DEPTH", 8)
    monkeypatch.setattr(d1, "VIEWS", 1)
    monkeypatch.setattr(d1, "ROUNDS", 2)
    monkeypatch.setattr(d1, "KINDS", {**d1.KINDS, "taught": {**d1.KINDS["taught"], "views": 1}})
    task = lissom.Task(
        example_inputs=(torch.zeros(1, 3, 8, 8),),
        train=lissom.data.Batches(images(20, 0), batch_size=10, shuffle=True),
        test=lissom.data.Batches(images(20, 1), batch_size=10),
        loss=F.cross_entropy,
    )
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    base = Training(epochs=d1.VIEWS + 1, learning_rate=0.1, precision="float32", channels_last=False)
    found = d1.compared(context, d1.student(9), task, seeds=(0, 1), base=base)
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert found.value["kept answers"].value == 20 * 10 * 2
    assert found.value["parameters"].value == 1.0
    assert found.value["epoch with kept answers"].value > 0
    assert [run.name for run in found.runs] == ["alone, seed 0", "alone, seed 1", "taught, seed 0", "taught, seed 1"]
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained again"))
    assert d1.compared(context, d1.student(9), task, seeds=(0, 1), base=base) == found


def test_the_interval_is_students():
    assert d1.interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
