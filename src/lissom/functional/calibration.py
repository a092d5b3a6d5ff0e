"""From what was seen of a tensor to the range that its integer grid should cover.

With the histogram h over bins of width w (`lissom.functional.histogram`), exact bounds [low, high], and N values:

- `minmax`: [low, high].
- `average`: the mean over the examples of the smallest, and of the largest value of an example.
- `percentile`: the narrowest range of bins with at least p per cent of the values in it; the rest is cut from the
  magnitudes (symmetric grids, values of one sign) or to equal parts from both ends.
- `mse`: the least sum over bins of h_i (c_i - Q(c_i))^2 with bin centres c_i, rounding and clipping by the very grid
  that the range would get. Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for
  rapid-deployment" (arXiv:1810.05723), equation 1, with the histogram in place of an assumed density. The ranges
  tried are [low / a, high / b]: for one bound a and b are powers of 2^(1/32) up to 2^8, for two bounds first powers of
  2^(1/2), then of 2^(1/8) and of 2^(1/32) around the best.
- `entropy`: the least divergence between the clipped values and what the levels of the grid can say of them, over all
  thresholds t that are a multiple of w: the range is [low, high] cut to [-t, t]. See `lissom.functional.divergence`.
  128 levels for magnitudes on a symmetric grid, 256 for a free zero point or uint8 without a sign (4 bits: 8 and 16).

All of them see exact zeros as what they are: values that every grid holds. Where several ranges are equally good, the
widest is taken. Every range lies inside [low, high].
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lissom.functional.affine import SMALLEST_SCALE, ActivationBits, Affine, IntType, limits_of, middle_of
from lissom.functional.divergence import divergences
from lissom.functional.histogram import Histogram
from lissom.functional.ranges import MeanRange
from lissom.settings import Setting

Method = Literal["minmax", "average", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 99.99
DEEPEST, FINE, STAGES = 8, 32, (2, 8, 32)
"""Least bound tried, as a power of 1/2; steps to the power for one bound, and stage by stage for two."""
TIE = 1e-9
"""Divergences this close together, in nats, are equal: they come from sums of rounded logarithms."""

Bounds = tuple[float, float]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Grid(Setting):
    """Which integers a range is laid on; `lissom.functional.affine.affine` makes scale and zero point of both."""

    dtype: IntType
    symmetric: bool
    bits: ActivationBits = 8

    @property
    def limits(self) -> tuple[int, int]:
        return limits_of(self.dtype, self.bits)


def calibrated(method: Method, seen: Histogram, means: MeanRange, grid: Grid, percentile: float = PERCENTILE) -> Bounds:
    """The range that `method` chooses, as (low, high)."""
    if method == "minmax":
        return seen.low, seen.high
    if method == "average":
        return average(means)
    if method == "percentile":
        return by_percentile(seen, grid, percentile)
    return by_mse(seen, grid) if method == "mse" else by_entropy(seen, grid)


def average(means: MeanRange) -> Bounds:
    """Mean over the examples of their smallest and of their largest values."""
    return means.bounds


def by_percentile(seen: Histogram, grid: Grid, percent: float) -> Bounds:
    """The narrowest range of whole bins that holds at least `percent` per cent of the values.

    Raises:
        ValueError: `percent` is not in (0, 100].
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile lies above 0 and not above 100, got {percent}")
    # Counted in whole numbers: how many values may be cut, rounded down.
    spare = int(seen.count * (100 - Fraction(str(percent))) / 100)
    if _one_bound(seen, grid):
        magnitudes = _magnitudes(seen)
        kept = magnitudes.size - _droppable(magnitudes[::-1], spare)
        return _cut(seen, max(kept, 1) * seen.width)
    counts = np.asarray(seen.counts, np.int64)
    # Both signs occur. Zeros lie between both ends: one end can at most lose its own side.
    below, above = counts[: -seen.first], counts[-seen.first :]
    low = (_droppable(below, spare // 2) - below.size) * seen.width
    high = max(above.size - _droppable(above[::-1], spare // 2), 1) * seen.width
    return max(seen.low, low), min(seen.high, high)


def by_mse(seen: Histogram, grid: Grid) -> Bounds:
    """The range of least expected squared error."""
    if not seen.counts:
        return seen.low, seen.high
    fine = 2.0 ** (-np.arange(FINE * DEEPEST + 1) / FINE)
    if _one_bound(seen, grid):
        lows, highs = seen.low * fine, seen.high * fine
        if grid.symmetric:
            reach = max(-seen.low, seen.high) * fine
            lows, highs = np.maximum(seen.low, -reach), np.minimum(seen.high, reach)
        return _best(lows, highs, squared_errors(seen, lows, highs, grid))
    low, high = seen.low, seen.high
    factors = 2.0 ** (-np.arange(STAGES[0] * DEEPEST + 1) / STAGES[0])
    for before, steps in itertools.pairwise((*STAGES, STAGES[-1])):
        lows, highs = np.maximum(low * factors, seen.low), np.minimum(high * factors, seen.high)
        low, high = _best_pair(seen, lows, highs, grid)
        reach = steps // before
        factors = 2.0 ** (np.arange(reach, -reach - 1, -1) / steps)
    return low, high


def by_entropy(seen: Histogram, grid: Grid) -> Bounds:
    """The range of least Kullback-Leibler divergence, over all thresholds at once."""
    if not seen.counts:
        return seen.low, seen.high
    levels = 2**grid.bits
    if grid.symmetric and not (grid.dtype == "uint8" and seen.low >= 0):
        levels //= 2
    if _one_bound(seen, grid):
        counts = _magnitudes(seen)
        stops = np.arange(levels, counts.size + 1)
        starts, reach = np.zeros_like(stops), stops
    else:
        counts = np.asarray(seen.counts, np.int64)
        last = seen.first + counts.size
        reach = np.arange(1, max(-seen.first, last) + 1)
        starts, stops = np.maximum(seen.first, -reach) - seen.first, np.minimum(last, reach) - seen.first
        wide = stops - starts >= levels
        starts, stops, reach = starts[wide], stops[wide], reach[wide]
    if not reach.size:
        return seen.low, seen.high
    found = divergences(counts, starts, stops, levels)
    best = np.flatnonzero(found <= found.min() + TIE)[-1]
    return _cut(seen, int(reach[best]) * seen.width)


def squared_errors(seen: Histogram, lows: Floats, highs: Floats, grid: Grid) -> Floats:
    """Sum over all values of (x - Q(x))^2 for every range (lows[r], highs[r]), shape (ranges,), from bin centres.

    In units of the largest magnitude, squared: so that extreme values neither overflow nor vanish.
    """
    scales, zeros = grids(lows, highs, grid)
    return _errors_on(seen, scales, zeros, grid.limits)


def mean_squared_error(seen: Histogram, numbers: Affine) -> float:
    """Mean over all values, zeros included, of (x - Q(x))^2, from bin centres."""
    if not seen.counts:
        return 0.0
    scales, zeros = np.array([numbers.scale]), np.array([float(numbers.zero_point)])
    relative = _errors_on(seen, scales, zeros, numbers.limits)
    return float(relative[0]) / seen.count * max(-seen.low, seen.high) ** 2


def _errors_on(seen: Histogram, scales: Floats, zeros: Floats, limits: tuple[int, int]) -> Floats:
    # Per level, the sum of h (c - q)^2 over the bins that round to q comes from prefix sums of h, h c and h c^2.
    counts = np.asarray(seen.counts, np.int64)
    unit = max(-seen.low, seen.high)
    centres = (np.arange(seen.first, seen.first + counts.size) + 0.5) * seen.width
    centres = np.clip(centres, seen.low, seen.high) / unit
    sums = [np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in (0, 1, 2)]
    steps = np.arange(limits[0], limits[1] + 1) - zeros[:, None]
    scales = scales[:, None] / unit
    edges = np.searchsorted(centres, (steps[:, 1:] - 0.5) * scales)
    ends = np.zeros((zeros.size, 1), np.int64)
    edges = np.concatenate([ends, edges, ends + counts.size], axis=1)
    zeroth, first, second = (np.diff(total[edges], axis=1) for total in sums)
    values = steps * scales
    return np.maximum(second - 2 * values * first + values**2 * zeroth, 0.0).sum(1)


def grids(lows: Floats, highs: Floats, grid: Grid) -> tuple[Floats, Floats]:
    """Scale and zero point of every range, as `affine` gives them one by one."""
    q_min, q_max = grid.limits
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    highs = np.where(lows == highs, float(q_max), highs)
    free = _scales((highs - lows) / (q_max - q_min))
    zero_points = np.clip(np.rint(q_min - lows / free), q_min, q_max)
    if not grid.symmetric:
        return free, zero_points
    middle = middle_of(grid.dtype, grid.bits)
    even = _scales(np.maximum(-lows, highs) / (q_max - middle))
    if grid.dtype == "int8":
        return even, np.zeros_like(even)
    return np.where(lows == 0.0, free, even), np.where(lows == 0.0, zero_points, float(middle))


def _scales(values: Floats) -> Floats:
    return np.maximum(values, SMALLEST_SCALE).astype(np.float32).astype(np.float64)


def _one_bound(seen: Histogram, grid: Grid) -> bool:
    """Whether a single threshold says everything: on magnitudes, or on values of one sign."""
    return grid.symmetric or seen.low >= 0 or seen.high <= 0


def _magnitudes(seen: Histogram) -> Integers:
    """Counts by magnitude, from the bin at 0 on: the bin -1 - i mirrors the bin i."""
    counts = np.asarray(seen.counts, np.int64)
    last = seen.first + counts.size
    folded = np.zeros(max(-seen.first, last), np.int64)
    nearest = min(last, 0)
    negative, positive = counts[: max(nearest - seen.first, 0)], counts[max(-seen.first, 0) :]
    folded[-nearest : negative.size - nearest] += negative[::-1]
    folded[max(seen.first, 0) : max(seen.first, 0) + positive.size] += positive
    return folded


def _droppable(counts: Integers, spare: int) -> int:
    """How many leading bins hold at most `spare` values together."""
    return int(np.searchsorted(np.cumsum(counts), spare, side="right"))


def _cut(seen: Histogram, reach: float) -> Bounds:
    return max(seen.low, -reach), min(seen.high, reach)


def _best(lows: Floats, highs: Floats, errors: Floats) -> Bounds:
    chosen = int(np.argmin(errors))
    return float(lows[chosen]), float(highs[chosen])


def _best_pair(seen: Histogram, lows: Floats, highs: Floats, grid: Grid) -> Bounds:
    pairs = np.array(list(itertools.product(lows, highs)))
    return _best(pairs[:, 0], pairs[:, 1], squared_errors(seen, pairs[:, 0], pairs[:, 1], grid))
