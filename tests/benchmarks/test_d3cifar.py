"""D3 on CIFAR-10 at toy size: two residual blocks, random images that nothing but the test may read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import d3cifar

import lissom
from lissom.metrics import accuracy
from lissom.recipe import Recipe
from lissom.transforms.finetuning import Finetune


class Unread:
    def __iter__(self) -> None:
        raise AssertionError("a real image was asked for")


def short(recipe: Recipe) -> Recipe:
    """The same with one epoch of two batches, two updates each."""
    steps = []
    for step in recipe.steps:
        if isinstance(step, Finetune):
            given = step.model_dump(exclude_none=True)
            brief = {"batch_size": 8, "steps": 2, **({"updates": 2} if "updates" in given["synthesis"] else {})}
            step = Finetune.model_validate({**given, "epochs": 1, "synthesis": {**given["synthesis"], **brief}})
        steps.append(step)
    return Recipe(steps)


@pytest.mark.slow
def test_no_image_but_those_of_the_test_is_read(tmp_path: Path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = d3cifar.CIFAR.ResNet(8).eval()
    x, y = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    task = lissom.Task(
        example_inputs=(x[:1],),
        train=Unread(),
        calibration=Unread(),
        validation=Unread(),
        test=lissom.data.Batches((x, y), batch_size=10),
        metric=accuracy,
        name="toy",
    )
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    brief = lissom.DataFree.of("inversion,updates=2,examples=64,batch_size=32")
    arms = {name: short(recipe) for name, recipe in d3cifar.ARMS.items()}
    found = d3cifar.compared(context, model, task, arms, brief)
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert found.value["MACs"].value >= 2.1
    assert [run.name for run in found.runs] == list(d3cifar.ARMS)
    assert d3cifar.compared(context, model, task, arms, brief) == found


def test_bounds_are_those_of_black_and_white_in_any_channel():
    black = [(0 - mean) / std for mean, std in zip(d3cifar.CIFAR.MEAN, d3cifar.CIFAR.STD, strict=True)]
    white = [(1 - mean) / std for mean, std in zip(d3cifar.CIFAR.MEAN, d3cifar.CIFAR.STD, strict=True)]
    assert d3cifar.LOW - 1e-3 < min(black) < d3cifar.LOW + 1e-3
    assert d3cifar.HIGH - 1e-3 < max(white) < d3cifar.HIGH + 1e-3
