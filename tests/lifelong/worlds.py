"""A small network with a normalization, and tasks of Gaussian clouds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom
from lissom.lifelong import Pack, Training


class Net(nn.Module):
    """`(b, 10)` to `(b, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(10, 24)
        self.norm = nn.BatchNorm1d(24)
        self.b = nn.Linear(24, 16)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.norm(self.a(x))))))


def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def clouds(seed: int, classes: int = 3, count: int = 96, inputs: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, inputs, generator=generator)
    y = torch.arange(count) % classes
    return centres[y] + torch.randn(count, inputs, generator=generator), y


def task(seed: int, classes: int = 3, inputs: int = 10) -> lissom.Task:
    """Two batches to train on, one to judge by."""
    x, y = clouds(seed, classes, inputs=inputs)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)]
    return lissom.Task(
        example_inputs=(x[:2],), train=batches[:2], validation=batches[2:], test=batches[2:],
        loss=F.cross_entropy, metric=lissom.metrics.accuracy,
    )  # fmt: skip


def quick(epochs: int, rate: float = 0.01) -> Training:
    return Training(
        epochs=epochs, optimizer="adamw", learning_rate=rate, precision="float32", channels_last=False, warmup=0.0
    )


def pack(share: float = 0.2) -> Pack:
    return Pack(share=share, training=quick(4), retraining=quick(2))
