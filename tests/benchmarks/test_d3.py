"""D3 at toy size: a few random images, four batches."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.context import Context
from benchmarks.experiments import d3

import lissom
from lissom.training.settings import Training


def test_students_are_taught_without_an_image_and_go_on_where_they_were(tmp_path: Path):
    x, y = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10

    class Unread:
        def __iter__(self) -> None:
            raise AssertionError("a real image was asked for")

    real = lissom.Task(
        example_inputs=(torch.zeros(1, 1, 28, 28),),
        train=Unread(),
        test=lissom.data.Batches((x, y), batch_size=10),
        loss=F.cross_entropy,
    )
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    kinds = {name: {**kind, "batch_size": 8, "steps": 2} for name, kind in d3.KINDS.items()}
    base = Training.model_validate({**d3.TAUGHT.model_dump(), "epochs": 2})
    large = d3.network(9, half=False)
    found = d3.compared(context, large, real, seeds=(0, 1), base=base, kinds=kinds)
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert [run.name for run in found.runs] == ["made up, seed 0", "made up, seed 1", "noise, seed 0", "noise, seed 1"]
    again = d3.compared(context, large, real, seeds=(0, 1), base=base, kinds=kinds)
    assert again == found


def test_the_networks_are_those_of_the_reference():
    count = [sum(p.numel() for p in d3.network(0, half=half).parameters()) for half in (False, True)]
    assert count == [61_706, 15_738]
