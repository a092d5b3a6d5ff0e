"""Kullback-Leibler divergence between a histogram and what few levels can say of it, for many ranges at once.

For a range of n bins, out of N values in all:

    P_i = h_i, plus all values below the range in its first bin and all above it in its last      the clipped values
    e_j = floor(j n / L), j = 0 ... L                                                             bins of L levels
    S_j = sum of h_i over e_j <= i < e_(j+1)          n_j = how many of those have P_i > 0
    Q_i = S_j / n_j where P_i > 0, else 0             a level says how many, not where
    KL  = sum_i P_i/N log((P_i / N) / (Q_i / N'))     with N' = sum of S_j

which is the criterion of Migacz 2017, "8-bit Inference with TensorRT" (GTC), slides 33 to 41. With prefix sums of h,
of [h > 0] and of h log h, a range costs L terms instead of a loop over its bins:

    N KL = sum_i P_i log P_i - sum_j M_j log(S_j / n_j) + N log(N' / N)       M_j: sum of P_i over the level

Deviations: levels differ by at most one bin in width, where TensorRT and ONNX Runtime give the last one the remainder
of n / L; nothing is added to empty bins, so that a range is refused (infinite) where a level has clipped values only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PIECE = 2**15
"""Terms that are looked at together: they fit a processor's cache."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def divergences(counts: Integers, starts: Integers, stops: Integers, levels: int) -> Floats:
    """KL of every range of bins [starts[r], stops[r]), shape (ranges,), in nats; infinite where it is refused.

    `counts` has the shape (bins,); every range has at least `levels` bins.

    Raises:
        ValueError: a range is narrower than `levels`, or nothing was counted.
    """
    if starts.size and int((stops - starts).min()) < levels:
        raise ValueError(f"a range of {int((stops - starts).min())} bins cannot have {levels} levels")
    if not counts.any():
        raise ValueError("the histogram is empty")
    below = np.concatenate([[0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    weighted = np.concatenate([[0.0], np.cumsum(_xlogx(counts))])
    found = np.empty(starts.size)
    step = max(PIECE // levels, 1)
    for begin in range(0, starts.size, step):
        part = slice(begin, begin + step)
        found[part] = _some(counts, below, filled, weighted, starts[part], stops[part], levels)
    return found


def _some(
    counts: Integers,
    below: Integers,
    filled: Integers,
    weighted: Floats,
    starts: Integers,
    stops: Integers,
    levels: int,
) -> Floats:
    edges = starts[:, None] + (stops - starts)[:, None] * np.arange(levels + 1) // levels
    inside = np.diff(below[edges], axis=1).astype(np.float64)
    places = np.diff(filled[edges], axis=1)
    total, kept = below[-1], below[stops] - below[starts]
    clipped = inside.copy()
    entropy = weighted[stops] - weighted[starts]
    # A level holds one bin at least, so the first and the last bin of a range are one only where it has one level.
    for bins, column, outside in ((starts, 0, below[starts]), (stops - 1, -1, total - below[stops])):
        clipped[:, column] += outside
        places[:, column] += (outside > 0) & (counts[bins] == 0)
        entropy += _xlogx(counts[bins] + outside) - _xlogx(counts[bins])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = clipped * np.log(inside / places)
        terms[clipped == 0] = 0.0
        found = (entropy - terms.sum(1) + total * np.log(kept / total)) / total
    return np.where(kept > 0, found, np.inf)


def _xlogx(counts: Integers) -> Floats:
    return counts.astype(np.float64) * np.log(np.maximum(counts, 1))
