"""P5 at toy size: a narrow detector, trained until its normalizations know its images."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.context import Context
from benchmarks.experiments import p5
from benchmarks.results import met

import lissom
from benchmarks import chain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def test_it_compares_with_both_controls_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openvino")
    context = Context(scratch=tmp_path / "scratch", kept=tmp_path / "kept", threads=1, rounds=3, say=lambda _: None)
    model, task = p5.original(context, {"train": 64, "validation": 8, "test": 8}, epochs=12, width=8, size=64)
    recipes = {
        p5.OURS: lissom.Recipe([lissom.Prune(macs_ratio=2), lissom.Fold(), lissom.Quantize()]),
        p5.ALONE: p5.RECIPES[p5.ALONE],
        chain.TRAINED_ONLY: lissom.Recipe([lissom.Finetune(epochs=1, learning_rate=1e-4)]),
    }
    found = p5.compared(context, model, task, recipes)
    met(found.goal, found.value)
    figures = {run.name: run.figures for run in found.runs}
    assert figures[p5.ALONE]["MACs"] > 1.8 * figures[p5.OURS]["MACs"]
    alone = next(one.value for one in found.control if one.what == "int8 alone, times smaller")
    assert found.value["size"].value > alone > 1.5
    assert {"drop", "speed-up", "int8 alone, speed-up"} < set(found.value)
    monkeypatch.setattr(chain, "recorded", lambda *_, **__: pytest.fail("run again"))
    again = p5.compared(context, model, task, recipes)
    assert again.value["size"] == found.value["size"]
