"""Random small networks, of the blocks that people's models are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = (torch.relu, torch.sigmoid, F.silu, F.gelu, F.hardswish, torch.cos, F.softplus)
"""Some of them are not zero at zero."""
IMAGE_BLOCKS = ("plain", "residual", "dense", "split", "grouped", "depthwise", "gate", "shuffle", "glu", "padded")
TOKEN_BLOCKS = ("attention", "joint attention", "mlp", "gated mlp", "positions", "recurrent")
MIXING_TOKEN_BLOCKS = ("experts",)
"""With a softmax over channels."""


class ImageBlock(nn.Module):
    """(n, width, h, w) in; `out` channels out."""

    def __init__(self, kind: str, width: int, act: int, norm: str) -> None:
        super().__init__()
        self.kind, self.act, self.width = kind, ACTIVATIONS[act], width
        self.out = {"plain": width + 2, "dense": width + 4, "padded": width + 4}.get(kind, width)
        into, out, groups, kernel = width, self.out, 1, 3
        if kind == "dense":
            out = 4
        elif kind == "split":
            into = out = width // 2
        elif kind == "grouped":
            groups = 2
        elif kind == "depthwise":
            groups = width
        elif kind == "glu":
            out = 2 * width
        elif kind in ("gate", "shuffle"):
            kernel = 1
        self.conv = nn.Conv2d(into, out, kernel, padding=kernel // 2, groups=groups, bias=norm != "batch")
        self.norm: nn.Module = {
            "batch": lambda: nn.BatchNorm2d(out),
            "group": lambda: nn.GroupNorm(2 if out % 2 == 0 else 1, out),
            "instance": lambda: nn.InstanceNorm2d(out, affine=True),
            "none": nn.Identity,
        }[norm]()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "split":
            a, b = x.chunk(2, 1)
            return torch.cat([self.act(self.norm(self.conv(a))), b], 1)
        if self.kind == "gate":
            return x * torch.sigmoid(self.conv(F.adaptive_avg_pool2d(self.act(x), 1)))
        y = self.norm(self.conv(x))
        match self.kind:
            case "residual":
                return x + self.act(y)
            case "dense":
                return torch.cat([x, self.act(y)], 1)
            case "shuffle":
                return F.channel_shuffle(self.act(y), 2)
            case "glu":
                return F.glu(y, 1)
            case "padded":
                return self.act(y) + F.pad(x, (0, 0, 0, 0, 2, 2))
            case _:
                return self.act(y)


class ImageNet(nn.Module):
    def __init__(self, kinds: Sequence[str], acts: Sequence[int], norms: Sequence[str], flat: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        width = 8
        blocks: list[nn.Module] = []
        for kind, act, norm in zip(kinds, acts, norms, strict=True):
            block = ImageBlock(kind, width, act, norm)
            blocks.append(block)
            width = block.out
        self.blocks = nn.Sequential(*blocks)
        self.flat = flat
        self.head = nn.Linear(width * 4 if flat else width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        x = F.adaptive_avg_pool2d(x, 2).flatten(1) if self.flat else x.mean((2, 3))
        return self.head(x)


class TokenBlock(nn.Module):
    """(n, 4, width) in and out, pre-normalized."""

    def __init__(self, kind: str, width: int, act: int, norm: str) -> None:
        super().__init__()
        self.kind, self.act, self.heads = kind, ACTIVATIONS[act], 2
        self.norm: nn.Module = {
            "layer": lambda: nn.LayerNorm(width),
            "rms": lambda: nn.RMSNorm(width),
            "none": nn.Identity,
        }[norm]()
        match kind:
            case "attention":
                self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
                self.o = nn.Linear(width, width)
            case "joint attention":
                self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
            case "mlp":
                self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)
            case "gated mlp":
                self.up, self.gate, self.down = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)
            case "experts":
                self.router = nn.Linear(width, 3)
                self.up, self.down = (nn.Parameter(torch.randn(3, *s) / 3) for s in ((width, 4), (4, width)))
            case "positions":
                self.table = nn.Parameter(torch.randn(1, 4, width))
                self.scale = nn.Parameter(torch.randn(width))
            case _:
                self.cell = nn.GRU(width, 6, batch_first=True, bidirectional=True)
                self.down = nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        match self.kind:
            case "attention":
                q, k, v = (
                    layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
                )
                return x + self.o(F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).flatten(2))
            case "joint attention":
                q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
                return x + self.o(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))
            case "mlp":
                return x + self.down(self.act(self.up(y)))
            case "gated mlp":
                return x + self.down(self.act(self.gate(y)) * self.up(y))
            case "experts":
                made = self.act(y.unsqueeze(2).unsqueeze(2) @ self.up) @ self.down
                return x + (self.router(y).softmax(-1)[..., None] * made.squeeze(3)).sum(2)
            case "positions":
                return (y + self.table) * self.scale
            case _:
                return x + self.down(self.cell(y)[0])


class TokenNet(nn.Module):
    def __init__(self, kinds: Sequence[str], acts: Sequence[int], norms: Sequence[str], flat: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        settings = zip(kinds, acts, norms, strict=True)
        self.blocks = nn.Sequential(*(TokenBlock(kind, 8, act, norm) for kind, act, norm in settings))
        self.flat = flat
        self.head = nn.Linear(32 if flat else 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(x.flatten(1) if self.flat else x[:, 0])
