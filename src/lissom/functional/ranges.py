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
        """The range of both together; NaN on either side stays."""
        return Range(
            low=_lesser(self.low, other.low),
            high=-_lesser(-self.high, -other.high),
            count=self.count + other.count,
        )

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def _lesser(a: float, b: float) -> float:
    # Python's min keeps or drops NaN depending on the order.
    return math.nan if math.isnan(a) or math.isnan(b) else min(a, b)


def range_of(values: Tensor) -> Range | None:
    """The range of a tensor of any shape; None for an empty one."""
    if values.numel() == 0:
        return None
    low, high = values.detach().aminmax()
    return Range(low=float(low), high=float(high), count=values.numel())
