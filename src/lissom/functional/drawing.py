"""Line drawings out of chance: strokes along the level lines of smooth random fields.

    ink = clip(w - |f - l| / |grad f| + 1/2, 0, 1) v

f a smooth field, l a level, w half the width of a stroke in pixels, v a window. |f - l| / |grad f| is the distance to
the line f = l to first order, so that a stroke is about as wide everywhere. That structured noise teaches networks what
white noise does not: Baradad et al. 2021 (arXiv:2106.05963); their models of images are others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-4
"""Added to the squared slope: a flat field has no line."""
EDGE = 8.0
"""How steeply a window ends."""


def strokes(field: Tensor, level: Tensor, half: Tensor) -> Tensor:
    """Ink in [0, 1] of fields `(n, 1, h, w)`; `level` and `half`, in pixels, `(n, 1, 1, 1)`."""
    right = F.pad(field[..., 2:] - field[..., :-2], (1, 1, 0, 0)) / 2
    down = F.pad(field[..., 2:, :] - field[..., :-2, :], (0, 0, 1, 1)) / 2
    distance = (field - level).abs() / (right.square() + down.square() + TINY).sqrt()
    return (half - distance + 0.5).clamp(0, 1)


def window(height: int, width: int, centre: Tensor, radius: Tensor) -> Tensor:
    """1 inside ellipses, 0 outside, `(n, 1, h, w)`; centre and radius `(n, 2, 1, 1)`, of coordinates in [-1, 1]."""
    down, right = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    place = torch.stack([down, right])[None].to(centre)
    far = ((place - centre) / radius).square().sum(1, keepdim=True)
    return ((1 - far) * EDGE).clamp(0, 1)


def drawings(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Ink `(n, 1, h, w)`: fields of 4 to 7 random numbers a side, strokes of 2.6 to 5 pixels on 28."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    coarse = int(torch.randint(4, 8, (1,), generator=generator))
    # The margin of an interpolated field is cut off: it is smoother than the rest.
    rim = max(1, height // 7), max(1, width // 7)
    whole = F.interpolate(
        torch.randn(count, 1, coarse, coarse, generator=generator),
        size=(height + 2 * rim[0], width + 2 * rim[1]),
        mode="bicubic",
        align_corners=True,
    )
    field = whole[:, :, rim[0] : rim[0] + height, rim[1] : rim[1] + width]
    level = 0.4 * torch.randn(count, 1, 1, 1, generator=generator)
    half = uniform(0.8, 2.0, 1, 1, 1) * min(height, width) / 28
    seen = window(height, width, uniform(-0.25, 0.25, 2, 1, 1), uniform(0.45, 0.8, 2, 1, 1))
    return strokes(field, level, half) * seen
