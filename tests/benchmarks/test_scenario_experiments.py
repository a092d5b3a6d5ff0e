"""S1 and S2 at toy size: a small untrained network, one epoch wherever there are several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from benchmarks.context import Context
from benchmarks.experiments import s1, s2
from torch import nn

import lissom
from lissom.advise import steps
from lissom.pipeline import measuring
from lissom.training import finetune as loop


def network() -> tuple[nn.Module, lissom.Task]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    batches = [(torch.randn(16, 3, 8, 8), torch.arange(16) % 10)]
    splits = dict.fromkeys(("train", "calibration", "validation", "test"), batches)
    return model.eval(), lissom.Task(
        example_inputs=(torch.zeros(1, 3, 8, 8),), loss=F.cross_entropy, metric=lissom.metrics.accuracy, **splits
    )


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "BETWEEN", 1)
    monkeypatch.setattr(steps, "FINAL", 1)
    monkeypatch.setattr(measuring, "peak_memory", lambda *_: 1_000_000)
    monkeypatch.setattr(measuring, "ROUNDS", 3)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [s1, s2])
def test_every_wish_has_its_figure_and_nothing_is_trained_twice(
    experiment, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(scratch=tmp_path / "s", kept=tmp_path / "kept", threads=1, rounds=3, say=lambda _: None)
    found = experiment.compared(context, {"toy": network()})
    assert {wish.figure for wish in found.goal.wishes} <= set(found.value)
    assert found.value["toy MACs"].value > 1.5
    assert found.value["toy size"].value > 1.0
    recipe = next(run.figures["recipe"] for run in found.runs)
    assert "Prune > Finetune" in recipe
    assert recipe.endswith("Fold > Quantize")
    monkeypatch.setattr(loop._Run, "carry_out", lambda *_: pytest.fail("trained again"))
    again = experiment.compared(context, {"toy": network()})
    assert [one.name for one in again.runs] == [one.name for one in found.runs]
    assert again.value["toy drop"] == found.value["toy drop"]
