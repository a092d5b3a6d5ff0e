"""H1 at toy size: a few random images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.cifar import project
from benchmarks.context import Context
from benchmarks.experiments import h1

import lissom
from lissom.training import finetune as loop
from lissom.training.settings import Training


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 10


@pytest.mark.slow
def test_it_compares_criteria_and_orders_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(h1, "ROWS", 16)
    monkeypatch.setattr(h1, "COLUMNS", 32)
    monkeypatch.setattr(h1, "MATRICES", 1)
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
    training = Training(epochs=1, learning_rate=0.01, precision="float32", channels_last=False)
    found = h1.compared(context, model, task, training)
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert [run.name for run in found.runs] == [
        f"{criterion}, {order} order" for criterion in h1.CRITERIA for order in ("given", "searched")
    ]
    assert all(run.figures["layers"] == found.runs[0].figures["layers"] > 3 for run in found.runs)
    before, *others = (one.value for one in found.control)
    chosen, simplest = (found.runs[[run.name for run in found.runs].index(n)].figures for n in (h1.CHOSEN, h1.SIMPLEST))
    assert [run.name for run in found.runs if "trained %" in run.figures] == [h1.SIMPLEST, h1.CHOSEN]
    assert found.value["drop"].value == pytest.approx(before - chosen["trained %"])
    assert found.value["drop, not trained"].value == pytest.approx(before - chosen["accuracy %"])
    assert others[1:] == [simplest["accuracy %"], simplest["trained %"]]
    assert found.value["kept, ours / greedy"].value >= 1
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained again"))
    again = h1.compared(context, model, task, training)
    assert again.runs == found.runs
