"""Whether sums of two integer products stay inside 16 bits.

x86 processors without VNNI multiply unsigned activations x in [0, X] by signed weights w with `vpmaddubsw`, which adds
two neighbouring products and saturates the sum to 16 bits:

    saturate16(x1 w1 + x2 w2)            exact for all x1, x2 in [0, X]  if and only if
    X (max(w1, 0) + max(w2, 0)) <= 32767   and   X (min(w1, 0) + min(w2, 0)) >= -32768

Which two weights are neighbours depends on how a kernel packs them, so a row of weights is certified for every pair:
by its two largest and its two smallest steps. Steps of 7 bits, |w| <= 63, are safe for every X up to 255, since
2 * 63 * 255 = 32130.

Reference: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, PMADDUBSW.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST, SMALLEST = 2**15 - 1, -(2**15)


@dataclass(frozen=True)
class Pair:
    """The extreme sums of two products over all rows of a weight, and how many rows can leave 16 bits."""

    highest: int
    lowest: int
    rows: int
    """Rows with a pair that saturates."""

    @property
    def safe(self) -> bool:
        return not self.rows


def worst_pair(steps: Tensor, largest_input: int) -> Pair:
    """The largest and smallest sum of two products in any row of `steps` (rows, n), whole numbers.

    Inputs lie in [0, largest_input].

    Raises:
        ValueError: `largest_input` is negative, or `steps` is not a matrix.
    """
    if largest_input < 0:
        raise ValueError(f"unsigned inputs are at least 0, got {largest_input}")
    if steps.ndim != 2:
        raise ValueError(f"weights of a product are a matrix (rows, n), got the shape {tuple(steps.shape)}")
    if not steps.numel():
        return Pair(0, 0, 0)
    count = min(2, steps.shape[1])
    whole = steps.to(torch.int64)
    highest = whole.topk(count, 1).values.clamp_min(0).sum(1) * largest_input
    lowest = whole.topk(count, 1, largest=False).values.clamp_max(0).sum(1) * largest_input
    out = (highest > LARGEST) | (lowest < SMALLEST)
    return Pair(int(highest.max()), int(lowest.min()), int(out.sum()))
