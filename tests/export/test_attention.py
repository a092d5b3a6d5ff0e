"""Attention that torch.onnx does not translate by itself: more axes than four, a mask before a view."""

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


@pytest.mark.parametrize("kind", [Windows, Masked])
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
