"""What torch.onnx does not write correctly by itself: attention not of four axes, a mask before a view, two clamps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissom.export.base import run
from lissom.export.catalogue import runtime_of
from lissom.target import load_target
from lissom.task import Batch, repeated


class Windows(nn.Module):
    """(n, windows, heads, length, width): the axis of the windows stands before the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, 3, length // 3, 3, 2, width // 2).permute(3, 0, 1, 4, 2, 5)
        made = F.scaled_dot_product_attention(q, k, v)
        return made.transpose(2, 3).reshape(n, length, width)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(1, 2, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        made = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.expand(n, -1, -1, -1).contiguous())
        return made.transpose(1, 2).reshape(n, length, width)


class HeadsInTheBatch(nn.Module):
    """(n x heads, length, width), with a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, 4).permute(2, 0, 3, 1, 4).reshape(3, n * 2, length, 4).unbind(0)
        made = F.scaled_dot_product_attention(q, k, v, attn_mask=q @ k.transpose(1, 2) * 0.1)
        return made.view(n, 2, length, 4).transpose(1, 2).reshape(n, length, width)


class OneMaskForAll(HeadsInTheBatch):
    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, width).unbind(2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.qkv.weight[:12, :1].tril().expand(12, 12))


class Clamped(nn.Module):
    """Two readers clamp one value by bounds of their own (Gemma 4): the optimizer gives both one name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        for index, name in enumerate(("a_low", "a_high", "b_low", "b_high")):
            self.register_buffer(name, torch.tensor(index / 10 - 0.15))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        return self.a(x.clamp(self.a_low, self.a_high)) + self.b(x.clamp(self.b_low, self.b_high))


@pytest.mark.parametrize("kind", [Windows, Masked, HeadsInTheBatch, OneMaskForAll, Clamped])
def test_it_runs_as_torch_does_at_every_batch_size(kind: type[nn.Module], tmp_path: Path):
    torch.manual_seed(0)
    model, example = kind().eval(), Batch((torch.randn(1, 12, 8),))
    runtime = runtime_of(load_target("onnxruntime"))
    artifact = runtime.export(model, example, "onnxruntime", tmp_path, "m")
    runner = runtime.load(artifact, tmp_path, 1)
    for count in (1, 5):
        batch = repeated(example, count)
        (got,) = run(runner, artifact, batch)
        torch.testing.assert_close(got, model(*batch.args), atol=1e-5, rtol=1e-5)
