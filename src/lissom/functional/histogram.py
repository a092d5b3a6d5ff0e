"""Histograms of activations that do not depend on how the values came in.

Bins have the width 2^k with an edge at 0. A value x >= 0 lies in the bin floor(x / 2^k); a value x < 0 in the bin
-1 - floor(-x / 2^k), so that both sides mirror each other. The exponent k is the smallest for which the largest
magnitude M has a bin below `BINS`: M = f 2^e with 1/2 <= f < 1 gives k = e - log2(BINS). Between BINS / 2 and BINS
bins are in use on the larger side.

When a larger magnitude arrives, k grows by some s, and the bin i becomes i >> s. Division by a power of two is exact
in binary floating point, and floor(floor(y) / 2^s) = floor(y / 2^s) for every y >= 0; so counts that were folded equal
those that would have been counted with wide bins from the start, and the result is a function of the set of values
alone, whatever the batches and their order. Exact zeros are counted apart: zero is on every integer grid, and after
a ReLU there would be little else in the first bin.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lissom.settings import Setting

BINS = 2048
"""Largest number of bins on each side of zero: a power of two."""
SMALLEST_EXPONENT = -160
"""Below that of the smallest float32; smaller float64 values share the first bin."""
PIECE = 2**16
"""Values that are looked at together, so that working memory does not grow with the tensor."""

Counts = NDArray[np.int64]


class Histogram(Setting):
    """Counts of non-zero values in bins `first`, `first + 1`, ... of the width 2^`exponent`; both ends are not empty.

    `low` and `high` are the exact smallest and largest value, zeros included; `zeros` is how many there were.
    """

    low: float
    high: float
    zeros: int
    exponent: int = SMALLEST_EXPONENT
    first: int = 0
    counts: tuple[int, ...] = ()

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        return self.zeros + sum(self.counts)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values together: exactly the one that all of them would have given."""
        both = Tally()
        both.take_(self)
        both.take_(other)
        return both.histogram()


class Tally:
    """A histogram in the making: `2 * BINS` counts, however many values are added."""

    def __init__(self) -> None:
        self._exponent = SMALLEST_EXPONENT
        self._counts: Counts = np.zeros(2 * BINS, np.int64)
        self._zeros = 0
        self._low = math.inf
        self._high = -math.inf

    def add_(self, values: Tensor) -> None:
        """Count the values of a floating-point tensor of any shape.

        Raises:
            ValueError: a value is NaN or infinite; nothing was counted.
        """
        values = values.detach()
        if values.numel() == 0:
            return
        low, high = (float(bound) for bound in values.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"a histogram needs finite values, got a tensor with the range [{low}, {high}]")
        self._widen_(low, high, exponent_for(max(-low, high)))
        for piece in values.reshape(-1).split(PIECE):
            zeros = piece.numel() - int(piece.count_nonzero())
            self._zeros += zeros
            self._counts += _counted(piece, zeros, self._exponent, both_sides=low < 0)

    def take_(self, other: Histogram) -> None:
        """Count everything that `other` has counted."""
        if not other.count:
            return
        self._widen_(other.low, other.high, other.exponent)
        start = BINS + other.first
        counts = np.zeros(2 * BINS, np.int64)
        counts[start : start + len(other.counts)] = other.counts
        self._counts += _folded(counts, self._exponent - other.exponent)
        self._zeros += other.zeros

    def histogram(self) -> Histogram:
        """What was counted so far.

        Raises:
            ValueError: nothing was counted.
        """
        used = np.flatnonzero(self._counts)
        if not used.size:
            if not self._zeros:
                raise ValueError("nothing was counted: no values, or only empty tensors")
            return Histogram(low=0.0, high=0.0, zeros=self._zeros)
        first, last = int(used[0]), int(used[-1])
        return Histogram(
            low=self._low,
            high=self._high,
            zeros=self._zeros,
            exponent=self._exponent,
            first=first - BINS,
            counts=tuple(self._counts[first : last + 1].tolist()),
        )

    def _widen_(self, low: float, high: float, exponent: int) -> None:
        # Adding 0.0 turns -0.0 into 0.0: which of the two was seen first must not matter.
        self._low, self._high = min(self._low, low) + 0.0, max(self._high, high) + 0.0
        if exponent > self._exponent:
            self._counts = _folded(self._counts, exponent - self._exponent)
            self._exponent = exponent


def exponent_for(magnitude: float) -> int:
    """k, for which `magnitude` lies in one of the bins BINS / 2 ... BINS - 1 of the width 2^k."""
    if magnitude == 0.0:
        return SMALLEST_EXPONENT
    return max(math.frexp(magnitude)[1] - (BINS.bit_length() - 1), SMALLEST_EXPONENT)


def _counted(values: Tensor, zeros: int, exponent: int, *, both_sides: bool) -> Counts:
    """Counts of the non-zero values in bins -BINS ... BINS - 1; `zeros` values are zero."""
    kept = values if values.dtype == torch.float64 else values.float()
    factor = math.ldexp(1.0, -exponent)
    if factor > torch.finfo(torch.float32).max:
        kept = kept.double()
    # Truncated towards zero before the sign is looked at: a tiny negative value may become -0.0 and keeps its side.
    bins = (kept * factor).to(torch.int32).add_(BINS)
    if both_sides:
        bins.sub_((values < 0).to(torch.int32))
    counts: Counts = torch.bincount(bins, minlength=2 * BINS).numpy()
    counts[BINS] -= zeros
    return counts


def _folded(counts: Counts, times: int) -> Counts:
    """The counts after the bin i became i >> times."""
    if times <= 0:
        return counts
    bins = np.arange(-BINS, BINS) >> min(times, BINS.bit_length())
    folded = np.zeros_like(counts)
    np.add.at(folded, bins + BINS, counts)
    return folded
