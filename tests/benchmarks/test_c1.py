"""C1 at toy size: a few random images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import c1
from benchmarks.experiments.c1 import Images, Mnist

from lissom.training import finetune as loop


def images(count: int, seed: int) -> Images:
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 10, tuple(map(str, range(10))))


def test_tasks_are_pairs_and_permutations() -> None:
    found = Mnist(images(40, 0), images(20, 1))
    split, permuted = found.split(5), found.permuted(3)
    assert list(split) == ["digits-0-1", "digits-2-3", "digits-4-5", "digits-6-7", "digits-8-9"]
    ((_, y),) = list(split["digits-2-3"].test)
    assert y.tolist() == [0, 1, 0, 1]
    (first, _), (second, labels) = (next(iter(permuted[f"permutation-{k}"].test)) for k in (0, 1))
    assert torch.equal(first.flatten(1).sort(1).values, second.flatten(1).sort(1).values)
    assert not torch.equal(first, second)
    assert torch.equal(labels, found.test.labels)
    both = list(c1.Together(list(permuted.values()), "test", 10))
    assert [int(y.min()) // 10 for _, y in both] == [0, 1, 2]


def test_everything_is_compared_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    found = Mnist(images(60, 0), images(20, 1))
    made = c1.compared(context, found, pairs=2, permutations=2, hidden=12)
    assert {wish.figure for wish in made.goal.wishes} <= set(made.value)
    assert made.value["permuted, int8: backward transfer"].value == 0.0
    assert made.value["permuted, int8: tasks changed"].value == 0
    assert len(made.runs) == 2 * (2 + 2)
    assert len(made.control) == 2 * 4
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained again"))
    again = c1.compared(context, found, pairs=2, permutations=2, hidden=12)
    assert again == made
