"""Grids of 8, 4, 3 and 2 bits for weights, one scale per row or per run of columns.

A weight is seen as a matrix (rows, n): one row per output, n inputs (of a convolution: inputs per group times kernel).
Runs of `group` columns share one scale s and one zero point z in every row:

    symmetric   s = c max|w| / L            z = 0                            q in [-L, L],  L = 2^(bits-1) - 1
    affine      s = c (high - low) / M      z = round(-c low / s)            q in [0, M],   M = 2^bits - 1

with low <= 0 <= high the smallest and largest weight of the run, and c in (0, 1] how far the range is drawn in. Fewer
bits gain from c < 1: a few large weights are clipped, all others get finer steps. `clipped_grid` takes, for every run,
the c of a list with the least squared error (the search that Nagel et al. 2021, "A White Paper on Neural Network
Quantization", arXiv:2106.08295, section 3.1.2, calls MSE range setting).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lissom.functional.affine import DEAD_CHANNEL, SMALLEST_SCALE

Bits = Literal[8, 4, 3, 2]
SHRINKS = tuple(1.0 - 0.02 * i for i in range(41))
"""Candidates of `clipped_grid`, largest first: of equal errors the widest range is taken."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Steps `low` to `high` stand for (q - zero) * scale; `scale` and `zero` are (rows, runs), float32.

    Run g holds the columns g * `group` to (g + 1) * `group`; the last one may be shorter.
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int
    group: int

    def scales(self, width: int) -> Tensor:
        """The scale of every weight, (rows, width)."""
        return _spread(self.scale, self.group, width)

    def zeros(self, width: int) -> Tensor:
        """The zero point of every weight, (rows, width)."""
        return _spread(self.zero, self.group, width)

    def steps(self, weight: Tensor) -> Tensor:
        """The nearest steps, whole numbers in `weight`'s type, (rows, n)."""
        n = weight.shape[1]
        return torch.round(weight / self.scales(n) + self.zeros(n)).clamp(self.low, self.high)

    def restored(self, steps: Tensor) -> Tensor:
        """What steps stand for, (rows, n)."""
        n = steps.shape[1]
        return (steps - self.zeros(n)) * self.scales(n)

    def rounded(self, weight: Tensor) -> Tensor:
        """The weight on the grid, (rows, n)."""
        return self.restored(self.steps(weight))


def weight_limit(bits: Bits) -> int:
    """The largest step of a symmetric grid: 127, 7, 3 or 1."""
    return 2 ** (bits - 1) - 1


def grid(
    weight: Tensor, bits: Bits, *, group: int | None = None, symmetric: bool = True, shrink: Tensor | float = 1.0
) -> Grid:
    """The grid of `weight` (rows, n) with runs of `group` columns, or one run a row.

    `shrink` is c, one number or one per run (rows, runs). No scale is below 2^-20 times the widest range (see
    `affine.weight_scales`). A weight that is all zeros gets the scale 1.

    Raises:
        ValueError: the weight holds NaN or infinite values, or the group is not positive.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinite values")
    width = weight.shape[1]
    group = max(width, 1) if group is None else group
    if group < 1:
        raise ValueError(f"a group holds at least one weight, got {group}")
    runs = _runs(weight.detach().float(), group)
    if symmetric:
        low, high = -weight_limit(bits), weight_limit(bits)
        scale = runs.abs().amax(-1) * shrink / high
    else:
        low, high = 0, 2**bits - 1
        smallest, largest = runs.amin(-1).clamp_max(0) * shrink, runs.amax(-1).clamp_min(0) * shrink
        scale = (largest - smallest) / high
    floor = max(float(scale.max()) * high * DEAD_CHANNEL, SMALLEST_SCALE) if scale.numel() else SMALLEST_SCALE
    used = scale.clamp_min(floor) if bool(scale.any()) else torch.ones_like(scale)
    if symmetric:
        return Grid(used, torch.zeros_like(used), low, high, group)
    smallest = runs.amin(-1).clamp_max(0) * shrink
    return Grid(used, torch.round(-smallest / used).clamp(low, high), low, high, group)


def clipped_grid(
    weight: Tensor,
    bits: Bits,
    *,
    group: int | None = None,
    symmetric: bool = True,
    importance: Tensor | None = None,
) -> Grid:
    """The grid whose range, of those drawn in by `SHRINKS`, rounds every run with the least squared error.

    `importance` (n,) weighs the columns, for example by the energy of the inputs they multiply.

    Raises:
        ValueError: see `grid`.
    """
    weight = weight.detach().float()
    widest = grid(weight, bits, group=group, symmetric=symmetric)
    best = torch.ones_like(widest.scale)
    least = torch.full_like(widest.scale, torch.inf)
    for shrink in SHRINKS:
        made = grid(weight, bits, group=group, symmetric=symmetric, shrink=shrink)
        gaps = (made.rounded(weight) - weight).square()
        error = _runs(gaps if importance is None else gaps * importance, widest.group).sum(-1)
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better, shrink, best)
    return grid(weight, bits, group=group, symmetric=symmetric, shrink=best)


def low_bit_grid(
    weight: Tensor,
    bits: Bits,
    importance: Tensor | None = None,
    *,
    group: int | None = None,
    symmetric: bool = True,
) -> Grid:
    """The grid of `weight` (rows, n): the whole range of every run for 8 bits, the best-clipped for fewer.

    Raises:
        ValueError: see `grid`.
    """
    if bits == 8:
        return grid(weight, 8, group=group, symmetric=symmetric)
    return clipped_grid(weight, bits, group=group, symmetric=symmetric, importance=importance)


def restored_groups(steps: Tensor, scale: Tensor, zero: Tensor | None, group: int) -> Tensor:
    """What whole `steps` (rows, ...) stand for, same shape, float32; `scale` and `zero` are (rows, runs)."""
    flat = steps.flatten(1).to(scale.dtype)
    shifted = flat if zero is None else flat - _spread(zero, group, flat.shape[1])
    return (shifted * _spread(scale, group, flat.shape[1])).reshape(steps.shape)


def _runs(values: Tensor, group: int) -> Tensor:
    """(rows, n) to (rows, runs, group), the last run filled with zeros."""
    missing = -values.shape[1] % group if values.shape[1] else group
    padded = torch.nn.functional.pad(values, (0, missing))
    return padded.reshape(values.shape[0], -1, group)


def _spread(numbers: Tensor, group: int, width: int) -> Tensor:
    return numbers.repeat_interleave(group, 1)[:, :width]
