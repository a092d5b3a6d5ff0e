"""A small network trained in a second on drawn bars, and its task: what the end-to-end tests compress."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lissom

RECIPE = lissom.Recipe([lissom.Fold(), lissom.Quantize(samples=64)])


class Tiny(nn.Module):
    """`(b, 1, 8, 8)` pictures of a bar to `(b, 4)` logits: which way it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def bars(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of a horizontal, vertical or diagonal bar; which."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(4, (count,), generator=generator)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    lines = torch.stack([(y - 3.5), (x - 3.5), (x - y) / 1.4, (x + y - 7) / 1.4])
    drawn = (lines[kinds].abs() < 1.2).float()
    return (drawn + 0.4 * torch.randn(count, 8, 8, generator=generator))[:, None], kinds


@functools.cache
def _state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Tiny()
    x, y = bars(512, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(6):
        for start in range(0, 512, 64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[start : start + 64]), y[start : start + 64]).backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def tiny() -> Tiny:
    """A fresh copy of the trained network."""
    with torch.random.fork_rng(devices=[]):
        model = Tiny()
    model.load_state_dict(_state())
    return model.eval()


def loader(count: int, seed: int, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*bars(count, seed)), batch_size=48, shuffle=shuffle)


def task(**changed: object) -> lissom.Task:
    given: dict[str, object] = {
        "example_inputs": (bars(1, 5)[0],),
        "train": loader(192, 1, shuffle=True),
        "validation": loader(96, 2),
        "test": loader(200, 3),
        "metric": lissom.metrics.accuracy,
        "name": "bars",
    }
    return lissom.Task(**{**given, **changed})  # type: ignore[arg-type]
