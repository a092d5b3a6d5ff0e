"""D4 at toy size: a few random images, two rounds."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.context import Context
from benchmarks.experiments import d4

import lissom


def test_epochs_are_paired_and_bytes_are_those_of_half_precision(tmp_path: Path) -> None:
    x, y = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 10
    task = lissom.Task(example_inputs=(x[:1],), train=lissom.data.Batches((x, y), batch_size=20), loss=F.cross_entropy)
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    found = d4.compared(context, d4.student(1), task, rounds=2)
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert len(found.runs) == 4
    assert all(value > 0 for run in found.runs for value in run.figures.values() if not isinstance(value, str))
    # 10 numbers of two bytes for each image, and at most as much again of what proves them.
    assert 50_000 * 20 <= found.value["kept answers"].value <= 50_000 * 40
    assert d4.compared(context, d4.student(1), task, rounds=2) == found
