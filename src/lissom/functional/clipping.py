"""How much of a tensor falls outside an integer grid, from its histogram.

    clipped share = #{x : round(x / s) + z outside [q_min, q_max]} / N
    SQNR          = 10 log10( mean x^2 / mean (x - Q(x))^2 )                      dB
    heavy tail    = max |x| / (magnitude that `CORE` of all magnitudes stay below)

A histogram knows values by their bins: bin centres decide, and the smallest and largest value are exact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lissom.functional.affine import Affine
from lissom.functional.calibration import mean_squared_error
from lissom.functional.histogram import Histogram

CORE = 0.999
"""Share of the magnitudes that a heavy tail is compared with."""


def edges(numbers: Affine) -> tuple[float, float]:
    """Values beyond these are clipped: half a step outside the grid's ends."""
    return numbers.low - numbers.scale / 2, numbers.high + numbers.scale / 2


def clipped_share(seen: Histogram, numbers: Affine) -> float:
    """Share of all values, zeros included, that the grid clips."""
    centres, counts = _bins(seen)
    low, high = edges(numbers)
    return int(counts[(centres < low) | (centres > high)].sum()) / seen.count if seen.count else 0.0


def rounding_sqnr_db(seen: Histogram, numbers: Affine) -> float | None:
    """Signal to rounding noise of the tensor alone; None where there is no signal or no noise."""
    centres, counts = _bins(seen)
    power = float((counts * centres.astype(np.float64) ** 2).sum()) / seen.count if seen.count else 0.0
    noise = mean_squared_error(seen, numbers)
    return 10 * math.log10(power / noise) if power > 0 and noise > 0 else None


def tail(seen: Histogram) -> float:
    """The largest magnitude over the one that `CORE` of all magnitudes stay below; 1 for a tensor of zeros."""
    centres, counts = _bins(seen)
    if not counts.size:
        return 1.0
    order = np.argsort(np.abs(centres))
    reached = seen.zeros + np.cumsum(counts[order])
    place = int(np.searchsorted(reached, CORE * seen.count))
    core = abs(float(centres[order][min(place, counts.size - 1)]))
    return max(-seen.low, seen.high) / core if core > 0 else 1.0


def _bins(seen: Histogram) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    counts = np.asarray(seen.counts, np.int64)
    centres = (np.arange(seen.first, seen.first + counts.size, dtype=np.float64) + 0.5) * seen.width
    return np.clip(centres, seen.low, seen.high), counts
