"""D2: a wide network for spoken digits gives hints to a thin, twice as deep one; a control learns without."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom.data
from benchmarks.context import Context
from benchmarks.experiments.d1 import count, interval, percent
from benchmarks.results import Beside, Figure, Goal, Outcome, Run, Wish
from lissom.data import Sounds
from lissom.files import write_text
from lissom.metrics import accuracy
from lissom.task import Task
from lissom.training.finetune import finetune
from lissom.training.settings import Training

TITLE = "Hints on spoken digits (fsdd): a wide teacher, a thin student twice as deep, a control without"
NEEDS = ("data",)
SEEDS = tuple(range(8))
LENGTH, WINDOW, HOP, BANDS = 8192, 256, 160, 32
"""Samples of a sound (about one second at 8 kHz), of a window, between windows; bands of the spectrogram."""
SAME = "the same run"
PLAIN: Mapping[str, Any] = {"precision": "float32", "channels_last": False, "crop": 3}
TEACHER = Training(epochs=15, learning_rate=0.1, weight_decay=5e-4, **PLAIN)
STUDENT = Training(epochs=24, learning_rate=0.1, weight_decay=5e-4, **PLAIN)
KINDS: Mapping[str, Mapping[str, Any]] = {
    "alone": {},
    "hints": {"teacher": "original", "share": 0.5, "losses": ["hint"]},
    "hints and soft targets": {"teacher": "original", "share": 0.5, "losses": ["hint", "kl"]},
}


class Net(nn.Module):
    """`(b, 1, bands, frames)` to `(b, 10)`: three stages of `depth` convolutions, at half of the size each."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [1, width, 2 * width, 2 * width]
        self.stages = nn.Sequential(*(stage(given, made, depth) for given, made in itertools.pairwise(widths)))
        self.fc = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(x).mean((2, 3)))


def stage(given: int, made: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        stride = 2 if index == 0 else 1
        layers += [
            nn.Conv2d(given if index == 0 else made, made, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(made),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def wide() -> Net:
    return net(24, 2, 0)


def thin(seed: int) -> Net:
    return net(4, 4, seed)


def net(width: int, depth: int, seed: int) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(width, depth)


def goal() -> Goal:
    return Goal(
        text=(
            f"A student of 12 convolutions after {STUDENT.epochs} epochs, last epoch on the test split, "
            f"{len(SEEDS)} seeds: at least 0.8 points fewer errors with hints than without a teacher, mean; hints with "
            "soft targets stand beside it"
        ),
        wishes=(Wish(figure="fewer errors with hints", at_least=0.8),),
    )


def run(context: Context) -> Outcome:
    folder = context.folder("data", "fsdd")
    splits = [lissom.data.parquet_audio(folder, split, length=LENGTH) for split in ("train", "test")]
    return compared(context, task_of(*splits), SEEDS, TEACHER, STUDENT)


def task_of(sounds: Sounds, test: Sounds) -> Task:
    """A tenth of the training sounds is the validation split, on which the settings above were chosen."""
    train, validation = lissom.data.split(sounds, 0.1, seed=0)
    mean, std = moments(spectrogram(train))

    def batches(some: Sounds, **more: Any) -> lissom.data.Batches:
        return lissom.data.Batches(((spectrogram(some) - mean) / std, some.labels), batch_size=64, **more)

    return Task(
        example_inputs=(torch.zeros(1, 1, BANDS, 1 + LENGTH // HOP),),
        train=batches(train, shuffle=True),
        validation=batches(validation),
        test=batches(test),
        loss=F.cross_entropy,
        metric=accuracy,
    )


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each band."""
    return x.mean((0, 1, 3), keepdim=True), x.std((0, 1, 3), keepdim=True)


def spectrogram(sounds: Sounds) -> Tensor:
    """`(n, 1, bands, frames)`: logarithms of the energies in triangular bands, equally wide on the mel scale."""
    waves = sounds.samples[:, 0].float() / 32768
    window = torch.hann_window(WINDOW)
    energy = torch.stft(waves, WINDOW, HOP, window=window, return_complex=True).abs().square()
    return (triangles(sounds.rate_hz) @ energy + 1e-6).log()[:, None]


def triangles(rate_hz: int) -> Tensor:
    """`(bands, frequencies)`; mel = 2595 log10(1 + f / 700)."""
    top = 2595 * math.log10(1 + rate_hz / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    f = torch.linspace(0, rate_hz / 2, WINDOW // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((f - low) / (middle - low), (high - f) / (high - middle)).clamp_min(0)


def compared(context: Context, task: Task, seeds: Sequence[int], teaching: Training, learning: Training) -> Outcome:
    """The experiment for any task of the same shape."""
    context.say("teacher")
    teacher = finetune(wide(), task, teaching, folder=context.kept / "teacher").model.eval()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for seed in seeds:
        for name, more in KINDS.items():
            context.say(f"{name}, seed {seed}")
            settings = Training.model_validate({**learning.model_dump(), **more})
            found[name].append(one(context, name, seed, settings, teacher, task))
    error = {name: [100 - each["accuracy %"] for each in many] for name, many in found.items()}
    gains = {name: [a - b for a, b in zip(error["alone"], error[name], strict=True)] for name in KINDS if KINDS[name]}
    return Outcome(
        goal=goal(),
        value={
            **{f"fewer errors with {name}": mean_of(gain) for name, gain in gains.items()},
            "error with hints": Figure(value=round(statistics.mean(error["hints"]), 3), unit="%"),
            "parameters": Figure(value=round(count(wide()) / count(thin(0)), 1), unit="x", note="of the teacher"),
        },
        reference=(),
        control=(
            Beside(what="error of the teacher", value=round(100 - percent(teacher, task), 3), unit="%", source=SAME),
            Beside(
                what="error without a teacher, mean",
                value=round(statistics.mean(error["alone"]), 3),
                unit="%",
                source=SAME,
            ),
        ),
        seeds=tuple(seeds),
        runs=tuple(
            Run(name=f"{name}, seed {seed}", figures={**each})
            for name, many in found.items()
            for seed, each in zip(seeds, many, strict=True)
        ),
    )


def mean_of(gain: Sequence[float]) -> Figure:
    """The mean over the seeds with its 95 % interval by Student's t."""
    low, high = interval(gain)
    return Figure(value=round(statistics.mean(gain), 3), low=round(low, 3), high=round(high, 3), unit="points")


def one(context: Context, name: str, seed: int, settings: Training, teacher: nn.Module, task: Task) -> dict[str, float]:
    """One training, which goes on where it was killed; what came of it is kept."""
    folder = context.kept / f"{name}-{seed}"
    done = folder / "found.json"
    if not done.is_file():
        assert isinstance(task.train, lissom.data.Batches)
        shuffled = replace(task, train=replace(task.train, seed=seed))
        made = finetune(thin(seed), shuffled, settings, folder=folder, seed=seed, original=teacher)
        last = made.history.epochs[-1]
        found = {"accuracy %": percent(made.model, task), "validation %": round(100 * (last.metric or 0.0), 3)}
        found["seconds"] = round(sum(epoch.seconds for epoch in made.history.epochs), 1)
        write_text(done, json.dumps(found))
    return json.loads(done.read_text(encoding="utf-8"))
