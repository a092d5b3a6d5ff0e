"""Shared by the tests of training: a small network with everything that is hard to resume, and its task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lissom import metrics
from lissom.task import Task
from lissom.training.settings import Training

PLAIN: dict[str, Any] = {"precision": "float32", "channels_last": False}
"""Nothing measured: the same computation on every machine."""

EVERYTHING: dict[str, Any] = {
    **PLAIN,
    "epochs": 3,
    "learning_rate": 0.05,
    "clip_norm": 1.0,
    "ema": 0.8,
    "label_smoothing": 0.1,
    "mixup": 0.4,
    "cutmix": 0.4,
    "crop": 1,
    "flip": True,
}


class Net(nn.Module):
    """Convolution, normalization, dropout, classifier: `(b, 3, 8, 8)` to `(b, 4)`."""

    def __init__(self, dropout: float = 0.2, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(F.relu(self.norm(self.conv(x))).mean((2, 3))))


def net(seed: int = 0, dropout: float = 0.2, width: int = 6) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(dropout, width)


def examples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of four classes that differ in the mean of their channels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    means = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    return torch.randn(count, 3, 8, 8, generator=generator) + means[labels][:, :, None, None], labels


def batches(*sizes: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    x, y = examples(sum(sizes), seed)
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def task(train: Any = None, loss: Callable[[Any, Any], Tensor] | None = F.cross_entropy, **more: Any) -> Task:
    return Task(
        example_inputs=(torch.zeros(1, 3, 8, 8),),
        train=batches(16, 16, 9) if train is None else train,
        **{"validation": batches(32, seed=1), "metric": metrics.accuracy, **more},
        loss=loss,
    )


def shuffled(**more: Any) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*examples(40)), batch_size=16, shuffle=True, **more)


def settings(**more: Any) -> Training:
    return Training(**{**PLAIN, "epochs": 2, "learning_rate": 0.05, "warmup": 0.0, **more})


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(left: nn.Module, right: nn.Module) -> bool:
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(BaseException):
    pass


class After:
    """Raises when it is called for the `count`-th time."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, _: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed
