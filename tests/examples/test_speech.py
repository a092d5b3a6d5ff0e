"""The speech example, on tones instead of spoken digits."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lissom.errors import ProjectError


@pytest.fixture(scope="module")
def speech(example: Callable[[str], ModuleType]) -> ModuleType:
    return example("speech")


def tone(hertz: float, seed: int) -> bytes:
    time = np.arange(8192) / 8000
    heard = 8000 * np.sin(2 * np.pi * hertz * time) + np.random.default_rng(seed).normal(0, 500, len(time))
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(heard.astype("<i2").tobytes())
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tones")
    for seed, (name, count) in enumerate((("train", 60), ("test", 20))):
        labels = [k % 10 for k in range(count)]
        cells = [{"bytes": tone(300 + 300 * k, 1000 * seed + i), "path": None} for i, k in enumerate(labels)]
        pq.write_table(pa.table({"audio": cells, "label": labels}), path / f"{name}.parquet")
    return path


def test_a_tone_is_loudest_in_the_band_that_holds_it(speech: ModuleType) -> None:
    for hertz in (440.0, 1000.0, 2500.0):
        samples = torch.from_numpy(np.frombuffer(tone(hertz, 0)[44:], dtype="<i2").copy()).reshape(1, 1, -1)
        spectrum = speech.log_mel(samples)
        assert spectrum.shape == (1, 1, speech.BANDS, speech.FRAMES)
        assert spectrum.mean().item() == pytest.approx(0, abs=1e-5)
        top = 2595 * np.log10(1 + 4000 / 700)
        centres = 700 * (10 ** (np.linspace(0, top, speech.BANDS + 2)[1:-1] / 2595) - 1)
        loudest = int(spectrum[0, 0].mean(1).argmax())
        assert abs(loudest - int(np.abs(centres - hertz).argmin())) <= 1


def test_tones_are_learned_and_the_weights_are_kept(speech: ModuleType, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "speech.safetensors"
    model, task = speech.build(folder, file, epochs="6")
    again, _ = speech.build(folder, file, epochs=99)
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) == y for x, y in task.test])
        assert torch.equal(model(task.example_inputs[0]), again(task.example_inputs[0]))
    assert right.double().mean().item() > 0.3, "ten classes: chance is 0.1"


def test_without_data_it_says_what_to_pass(speech: ModuleType) -> None:
    with pytest.raises(ProjectError, match=r"data is not given.*--set data=FOLDER"):
        speech.build()
