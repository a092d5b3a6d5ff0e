"""Ranges of tensors, collected batch by batch and merged exactly.

The min-max range does not depend on how the data was batched or ordered: minimum and maximum are associative and
commutative.
"""

from __future__ import annotations

import math

from torch import Tensor

from lissom.settings import Setting


class Range(Setting):
    """Smallest and largest value seen, and how many values."""

    low: float
    high: float
    count: int

    def merge(self, other: Range) -> Range:
        return Range(
            low=min(self.low, other.low), high=max(self.high, other.high), count=self.count + other.count
        )

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def range_of(values: Tensor) -> Range | None:
    """The range of a tensor of any shape; None for an empty one."""
    if values.numel() == 0:
        return None
    low, high = values.detach().aminmax()
    return Range(low=float(low), high=float(high), count=values.numel())
