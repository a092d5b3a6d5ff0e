"""A detector of the usual shape: CSP backbone, SPPF, top-down and bottom-up paths by concatenation, three heads.

Written from the published block diagrams; no weights. Boxes and classes come out per scale, as (n, 4 + classes, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Sequential):
    """Convolution, normalization, SiLU."""

    def __init__(self, given: int, made: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(given, made, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(made), nn.SiLU(inplace=True)
        )


class Bottleneck(nn.Module):
    def __init__(self, width: int, *, shortcut: bool) -> None:
        super().__init__()
        self.first = Block(width, width, 3)
        self.second = Block(width, width, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        made = self.second(self.first(x))
        return x + made if self.shortcut else made


class Csp(nn.Module):
    """Cross-stage partial: one half goes through bottlenecks, every stage of it is concatenated."""

    def __init__(self, given: int, made: int, depth: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.enter = Block(given, made)
        self.stages = nn.ModuleList(Bottleneck(made // 2, shortcut=shortcut) for _ in range(depth))
        self.leave = Block((2 + depth) * (made // 2), made)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for stage in self.stages:
            parts.append(stage(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Spatial pyramid pooling, fast: the same maximum pooled one, two and three times, side by side."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.enter = Block(given, given // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = Block(2 * given, made)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Head(nn.Module):
    """Boxes and classes of one scale, each with its own tower."""

    def __init__(self, given: int, width: int, classes: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(Block(given, width, 3), Block(width, width, 3), nn.Conv2d(width, 4, 1))
        self.classes = nn.Sequential(Block(given, width, 3), Block(width, width, 3), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.boxes(x), self.classes(x)], 1)


class Detector(nn.Module):
    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128, 256), classes: int = 5) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.stem = nn.Sequential(Block(3, a, 3, 2), Block(a, b, 3, 2), Csp(b, b, 1))
        self.to_small = nn.Sequential(Block(b, c, 3, 2), Csp(c, c, 2))
        self.to_middle = nn.Sequential(Block(c, d, 3, 2), Csp(d, d, 2))
        self.to_large = nn.Sequential(Block(d, e, 3, 2), Csp(e, e, 1), Sppf(e, e))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.down_middle = Csp(e + d, d, 1, shortcut=False)
        self.down_small = Csp(d + c, c, 1, shortcut=False)
        self.back_middle = Block(c, c, 3, 2)
        self.up_middle = Csp(c + d, d, 1, shortcut=False)
        self.back_large = Block(d, d, 3, 2)
        self.up_large = Csp(d + e, e, 1, shortcut=False)
        self.heads = nn.ModuleList(Head(width, c, classes) for width in (c, d, e))

    def forward(self, x: Tensor) -> list[Tensor]:
        small = self.to_small(self.stem(x))
        middle = self.to_middle(small)
        large = self.to_large(middle)
        middle = self.down_middle(torch.cat([self.up(large), middle], 1))
        small = self.down_small(torch.cat([self.up(middle), small], 1))
        middle = self.up_middle(torch.cat([self.back_middle(small), middle], 1))
        large = self.up_large(torch.cat([self.back_large(middle), large], 1))
        return [head(x) for head, x in zip(self.heads, (small, middle, large), strict=True)]
