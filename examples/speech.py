"""Spoken digits for a tiny device: log-mel spectra, a small convolutional network, low rank, int8.

    lissom compress examples/speech.py --set data=FOLDER --set weights=speech.safetensors \
        --recipe recipe.yaml --target onnxruntime --out runs/speech

`data` holds train.parquet and test.parquet of the Free Spoken Digit Dataset with the columns `audio.bytes` (WAV, 8 kHz)
and `label`. `weights` is a file: where it is missing, the network is trained (a few minutes) and the file is written.
The recipe keeps an eighth of the parameters, recovers with the dense network as the teacher, and rounds:

    - Factorize: {parameters_ratio: 8, exclude: [features.0, out]}
    - Finetune: {epochs: 5, learning_rate: 0.002, clip_norm: 1, teacher: original, temperature: 4}
    - Fold: {}
    - Quantize: {}
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lissom
import lissom.data
from lissom.errors import ProjectError
from lissom.training.finetune import finetune
from lissom.training.settings import Training

RATE_HZ, SAMPLES, WINDOW, BANDS, FRAMES = 8000, 8192, 256, 40, 64
WIDTHS = (32, 32, 64, 64, 96)


class Speech(nn.Module):
    """`(b, 1, 40, 64)` log-mel spectra to `(b, 10)`."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in WIDTHS:
            stride = 1 if width == before else 2
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten())
        self.hidden = nn.Linear(12 * before, 256)
        self.out = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.dropout(F.relu(self.hidden(self.features(x))), 0.3, self.training))


def log_mel(samples: Tensor) -> Tensor:
    """int16 `(n, 1, t)` to `(n, 1, 40, 64)`: log of the power in mel bands, each sound with mean 0 and deviation 1."""
    waves = samples[:, 0].float() / 32768
    hop = SAMPLES // FRAMES
    spectra = torch.stft(waves, WINDOW, hop, window=torch.hann_window(WINDOW), return_complex=True)[..., :FRAMES]
    found = (mel_bands() @ spectra.abs().square()).clamp_min(1e-10).log()
    mean, spread = found.mean((1, 2), keepdim=True), found.std((1, 2), keepdim=True)
    return ((found - mean) / spread).unsqueeze(1)


def mel_bands() -> Tensor:
    """`(40, 129)` triangles, evenly spaced in mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    top = 2595 * torch.log10(torch.tensor(1 + RATE_HZ / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), BANDS + 2) / 2595) - 1)
    hertz = torch.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((hertz - low) / (centre - low), (high - hertz) / (high - centre)).clamp_min(0)


def task(data: Path) -> lissom.Task:
    spoken = lissom.data.parquet_audio(data, "train", length=SAMPLES)
    test = lissom.data.parquet_audio(data, "test", length=SAMPLES, classes=spoken.classes)
    train, validation = lissom.data.split(spoken, 0.1, seed=0)
    _, calibration = lissom.data.split(train, min(0.5, 512 / len(train)), seed=0)
    batches = {
        name: lissom.data.Batches((log_mel(one.samples), one.labels), batch_size=64, shuffle=name == "train")
        for name, one in (("train", train), ("validation", validation), ("calibration", calibration), ("test", test))
    }
    x, _ = next(iter(batches["validation"]))
    return lissom.Task(
        example_inputs=(x[:1],),
        loss=F.cross_entropy,
        metric=lissom.metrics.accuracy,
        name="spoken-digits",
        **batches,
    )


def build(
    data: str | Path | None = None, weights: str | Path | None = None, epochs: int | str = 8
) -> tuple[nn.Module, lissom.Task]:
    """The trained network and its task.

    Raises:
        ProjectError: `data` is not given.
    """
    if data is None:
        raise ProjectError(
            "data is not given: the folder that holds train.parquet and test.parquet of spoken digits, with the "
            "columns audio (encoded) and label. Pass --set data=FOLDER."
        )
    made, model = task(Path(data)), seeded()
    if weights is not None and Path(weights).is_file():
        model.load_state_dict(load_file(weights))
        return model.eval(), made
    settings = Training(epochs=int(epochs), learning_rate=0.05, weight_decay=5e-4)
    model = finetune(model, replace(made, validation=None), settings, seed=0).model.eval()
    if weights is not None:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return model, made


def seeded() -> Speech:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Speech()
