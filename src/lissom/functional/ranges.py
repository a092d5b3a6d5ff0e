"""Ranges of tensors, collected batch by batch and merged exactly.

The min-max range does not depend on how the data was batched or ordered: minimum and maximum are associative and
commutative. Neither does the mean of the ranges of single examples: it is summed in whole numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction

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


UNIT = 2**149
"""Parts of 1 in which bounds are summed: every float32 is a whole number of them."""


class MeanRange(Setting):
    """Sums of the smallest and of the largest values of `examples` single examples, in parts of 1 / `UNIT`."""

    low: int
    high: int
    examples: int

    def merge(self, other: MeanRange) -> MeanRange:
        """The sums over both sets of examples."""
        return MeanRange(low=self.low + other.low, high=self.high + other.high, examples=self.examples + other.examples)

    @property
    def bounds(self) -> tuple[float, float]:
        """Mean of the smallest and mean of the largest values."""
        count = UNIT * self.examples
        return float(Fraction(self.low, count)), float(Fraction(self.high, count))


def mean_of(seen: Range) -> MeanRange:
    """The range of one example, to be merged with those of others.

    Raises:
        ValueError: a bound is NaN or infinite.
    """
    if not seen.finite:
        raise ValueError(f"a mean needs finite bounds, got [{seen.low}, {seen.high}]")
    return MeanRange(low=_parts(seen.low), high=_parts(seen.high), examples=1)


def _parts(value: float) -> int:
    return math.floor(Fraction(value) * UNIT)


def _lesser(a: float, b: float) -> float:
    # Python's min keeps or drops NaN depending on the order.
    return math.nan if math.isnan(a) or math.isnan(b) else min(a, b)


def range_of(values: Tensor) -> Range | None:
    """The range of a tensor of any shape; None for an empty one."""
    if values.numel() == 0:
        return None
    low, high = values.detach().aminmax()
    return Range(low=float(low), high=float(high), count=values.numel())
