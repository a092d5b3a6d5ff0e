"""D2 at toy size, and its spectrogram beside that of whole waves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.context import Context
from benchmarks.experiments import d2
from benchmarks.results import met

from lissom.data import Sounds
from lissom.training import finetune as loop


def tones(hertz: list[int], rate_hz: int = 8000) -> Sounds:
    t = torch.arange(d2.LENGTH) / rate_hz
    waves = torch.stack([(8000 * torch.sin(2 * torch.pi * f * t)).round().to(torch.int16) for f in hertz])[:, None]
    count = len(hertz)
    return Sounds(waves, torch.full((count,), d2.LENGTH), torch.arange(count) % 10, tuple("0123456789"), rate_hz)


def test_a_tone_is_loudest_in_the_band_of_its_frequency() -> None:
    found = d2.spectrogram(tones([300, 1000, 3000]))
    assert found.shape == (3, 1, d2.BANDS, 1 + d2.LENGTH // d2.HOP)
    loudest = found[:, 0, :, 20].argmax(1)
    middles = 700 * (10 ** (torch.linspace(0, 2146.06, d2.BANDS + 2)[1:-1] / 2595) - 1)
    assert loudest.tolist() == [int((middles - f).abs().argmin()) for f in (300, 1000, 3000)]


def test_it_trains_all_kinds_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(d2, "LENGTH", 1024)
    monkeypatch.setattr(d2, "SEEDS", (0, 1))
    sounds = tones(list(range(200, 3200, 75)))
    task = d2.task_of(sounds, sounds)
    context = Context(scratch=tmp_path, kept=tmp_path, threads=1, rounds=3, say=lambda _: None)
    short = {
        "teaching": d2.TEACHER.model_copy(update={"epochs": 1}),
        "learning": d2.STUDENT.model_copy(update={"epochs": 1}),
    }
    found = d2.compared(context, task, (0, 1), **short)
    met(found.goal, found.value)
    errors = {
        name: [100 - r.figures["accuracy %"] for r in found.runs if r.name.startswith(f"{name},")] for name in d2.KINDS
    }
    gain = sum(a - b for a, b in zip(errors["alone"], errors["hints"], strict=True)) / 2
    assert found.value["fewer errors with hints"].value == pytest.approx(gain, abs=1e-3)
    monkeypatch.setattr(loop._Run, "_epoch", lambda *_: pytest.fail("trained again"))
    assert d2.compared(context, task, (0, 1), **short) == found
