"""Small networks of each kind, untrained, and tasks with data of their shapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lissom


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Convolutional(nn.Module):
    """`(b, 3, 8, 8)` to `(b, 4)`: three residual blocks of 16 channels, one depthwise layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.blocks = nn.Sequential(*(Residual(16) for _ in range(3)))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.stem(x))))
        return self.head(self.blocks(x).mean((2, 3)))


class Transformer(nn.Module):
    """`(b, 6)` tokens to `(b, 2)`: one encoder layer of width 32, 200 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(200, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 128), nn.Linear(128, 32)
        self.head = nn.Linear(32, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        x = x + F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.head((x + self.down(F.gelu(self.up(self.norm(x))))).mean(1))


class Tables(nn.Module):
    """`(b,)` users and items to `(b,)` scores."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(300, 64), nn.Embedding(500, 64)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.users(users) * self.items(items)).sum(1)


def convolutional(**data) -> tuple[nn.Module, lissom.Task]:
    """With everything but what `data` changes."""
    torch.manual_seed(0)
    batches = [(torch.randn(32, 3, 8, 8), torch.randint(4, (32,))) for _ in range(2)]
    given = dict.fromkeys(("train", "calibration", "validation", "test"), batches)
    given |= {"loss": F.cross_entropy, "metric": lissom.metrics.accuracy, **data}
    return Convolutional().eval(), lissom.Task(example_inputs=(torch.randn(1, 3, 8, 8),), **given)


def transformer(**data) -> tuple[nn.Module, lissom.Task]:
    torch.manual_seed(0)
    batches = [(torch.randint(200, (32, 6)), torch.randint(2, (32,))) for _ in range(2)]
    given = dict.fromkeys(("train", "calibration", "validation", "test"), batches)
    given |= {"loss": F.cross_entropy, "metric": lissom.metrics.accuracy, **data}
    return Transformer().eval(), lissom.Task(example_inputs=(torch.randint(200, (2, 6)),), **given)


def tables(**data) -> tuple[nn.Module, lissom.Task]:
    torch.manual_seed(0)
    return Tables().eval(), lissom.Task(example_inputs=(torch.randint(300, (2,)), torch.randint(500, (2,))), **data)


NO_DATA = dict.fromkeys(("train", "calibration", "validation", "test", "loss", "metric"))
