"""CORRECTIONS at toy size: a few random images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.cifar import project
from benchmarks.context import Context
from benchmarks.experiments import corrections

import lissom
from lissom.transforms.quantization.corrections import relative_error


def test_every_correction_is_judged_and_nothing_is_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    task = lissom.Task(
        example_inputs=(images[:1],),
        calibration=[images],
        validation=lissom.data.Batches((images, torch.arange(40) % 10), batch_size=20),
        metric=lissom.metrics.accuracy,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = project().ResNet(8).eval()
    monkeypatch.setattr(corrections, "TRIED", {8: ("smooth", "reestimate")})
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    found = corrections.compared(context, "toy", model, task)
    assert list(found) == ["float", "W8A8", "W8A8 smooth", "W8A8 reestimate"]
    for label in ("W8A8 smooth", "W8A8 reestimate"):
        one = found[label]
        kept = one["output error with %"] < one["output error without %"]
        assert one["gate"] == "nothing to do" or kept >= (one["gate"] == "kept")
        assert one["effect points"] == pytest.approx(one["accuracy"] - found["W8A8"]["accuracy"])
    monkeypatch.setattr(corrections, "one", lambda *_: pytest.fail("done again"))
    assert corrections.compared(context, "toy", model, task) == found


def test_verdicts():
    before = torch.arange(100) < 50
    much, little = torch.arange(100) < 80, torch.arange(100) < 51
    assert corrections.judged({"gate": "kept"}, before, much)["gate was"] == "right"
    assert corrections.judged({"gate": "put back"}, before, much)["gate was"] == "wrong"
    assert corrections.judged({"gate": "put back"}, much, before)["gate was"] == "right"
    assert corrections.judged({"gate": "kept"}, before, little)["gate was"] == "not told apart from chance"
    assert corrections.judged({"gate": "nothing to do"}, before, before) == {"effect points": 0.0}


def test_open_gates_let_everything_through_and_close_again():
    a, b = [torch.ones(2)], [torch.zeros(2)]
    with corrections.open_gates():
        from lissom.transforms.quantization.corrections import relative_error as opened

        errors = [opened(a, b) for _ in range(5)]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 5
    assert relative_error(a, b) == 1.0
