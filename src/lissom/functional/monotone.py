"""Curves that never fall: the nearest one to noisy values, and what it says between and beyond them.

    min  sum_i w_i (f_i - y_i)^2    so that   f_1 <= f_2 <= ...

by pooling neighbours that violate the order (Barlow et al. 1972, "Statistical Inference under Order Restrictions",
section 1.2: pool adjacent violators).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def isotonic(values: Array, weights: Array) -> Array:
    """The non-decreasing values nearest to `values` (n,), in squares weighed by `weights` (n,)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, u, m), (b, v, n) = blocks[-2:]
            blocks[-2:] = [((a * u + b * v) / (u + v), u + v, m + n)]
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


@dataclass(frozen=True, eq=False)
class Curve:
    """Straight between knots, which rise; beyond them it goes on as steeply as at its ends, within [0, `steepest`]."""

    x: Array
    y: Array
    slope: float
    """Where there is one knot only."""
    steepest: float = 1.0

    def __call__(self, x: Array) -> Array:
        below, above = self._slope(0), self._slope(-2)
        inside = np.interp(x, self.x, self.y)
        return inside + below * np.minimum(x - self.x[0], 0.0) + above * np.maximum(x - self.x[-1], 0.0)

    def _slope(self, at: int) -> float:
        if len(self.x) < 2:
            return self.slope
        end = at + 1
        steep = float((self.y[end] - self.y[at]) / (self.x[end] - self.x[at]))
        return min(max(steep, 0.0), self.steepest)


def rising(x: Array, y: Array, *, slope: float) -> Curve:
    """Through the means of `y` at each distinct `x`, made to rise."""
    at: dict[float, list[float]] = {}
    for place, value in zip(x.tolist(), y.tolist(), strict=True):
        at.setdefault(place, []).append(value)
    places = sorted(at)
    means = np.array([sum(at[place]) / len(at[place]) for place in places])
    counts = np.array([len(at[place]) for place in places], dtype=np.float64)
    return Curve(np.array(places), isotonic(means, counts), slope)
