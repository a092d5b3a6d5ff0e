"""What pruning timm's families taught: one hand-made module for each trap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lissom.graph.agreement import ALLOWED_GAP
from lissom.graph.channels import find_channels
from lissom.graph.trace import trace
from lissom.task import Batch
from lissom.transforms.pruning.surgery import Pruned, prune


def halved(model: nn.Module, *inputs: Tensor) -> Pruned:
    """Every other channel of every group that can be cut is gone; equality is checked on the way."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    traced = trace(model, Batch(inputs))
    channels = find_channels(traced)
    kept = {g.atom: np.arange(0, g.size, 2) for g in channels.groups if g.reason is None and g.size > 1}
    assert kept
    found = prune(model, traced, kept, Batch(inputs), channels)
    assert found.gap <= ALLOWED_GAP
    return found


class RepeatedPositions(nn.Module):
    """A position image, made by a convolution, repeated over a batch of any size (XCiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.places = nn.Conv2d(2, 8, 1)
        self.head = nn.Linear(8, 5)
        grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"))
        self.register_buffer("grid", grid[None])

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(self.grid).repeat(x.shape[0], 1, 1, 1)
        return self.head((self.patches(x) + places).mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_what_is_repeated_over_the_batch_takes_every_batch(batch: int):
    model = RepeatedPositions()
    found = halved(model, torch.randn(1, 3, 16, 16))
    assert found.own
    assert found.module.places.weight.shape[0] == 4
    exported = halved(trace(model, Batch((torch.randn(1, 3, 16, 16),))).module, torch.randn(1, 3, 16, 16))
    assert not exported.own
    assert exported.module(torch.randn(batch, 3, 16, 16)).shape == (batch, 5)


class HeadsInTheBatch(nn.Module):
    """Batch times heads is a size that the graph computes; two layers with as many heads share it (SAM, BoTNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Folded() for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.inner = nn.Linear(12, 20)
        self.out = nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        y = self.inner(x).view(n, length, self.heads, -1).transpose(1, 2).reshape(n * self.heads, length, -1)
        y = (y @ y.transpose(1, 2) * 0.1).softmax(-1) @ y
        return self.out(y.view(n, self.heads, length, -1).transpose(1, 2).reshape(n, length, -1))


def test_batch_times_heads_follows_the_heads_of_each_layer():
    model = HeadsInTheBatch()
    torch.manual_seed(0)
    traced = trace(model, Batch((torch.randn(1, 6, 12),)))
    channels = find_channels(traced)
    heads = [g for g in channels.groups if g.size == 4]
    assert len(heads) == 2
    kept = {heads[0].atom: np.array([0, 2, 3]), heads[1].atom: np.array([1])}
    found = prune(model, traced, kept, Batch((torch.randn(1, 6, 12),)), channels)
    assert found.own
    assert [layer.heads for layer in found.module.layers] == [3, 1]
    assert found.module(torch.randn(5, 6, 12)).shape == (5, 6, 3)


class AllButTheLast(nn.Module):
    """A border that is counted from the end stays so (EfficientViT's linear attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 9)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return self.out(y[:, :-1] * y[:, -1:])


def test_what_is_counted_from_the_end_still_is():
    found = halved(AllButTheLast(), torch.randn(1, 6))
    assert found.own
    assert found.module.inner.weight.shape == (5, 6)
