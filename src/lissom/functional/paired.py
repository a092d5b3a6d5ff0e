"""How far a metric may really have dropped, from the scores of the same examples before and after.

With d_i = before_i - after_i over n examples and R = max |d_i|:

    m = sum d_i / (n + 2)        v = (sum d_i^2 + R^2) / (n + 2) - m^2        limit = m + z sqrt(v / (n + 2))

and z the `confidence` quantile of the normal distribution: a one-sided upper limit of the mean drop. For right or wrong
answers (R = 1) this is the limit of Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
proportions" (Statistics in Medicine 24, 729-740): half a pair is added to each of the four cells of the table, since
Wald's limit is too small where few pairs differ. Deviation: scores of any range, with R in the place of 1; where no
score differs, the limit is 0.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

from torch import Tensor


class Drop(NamedTuple):
    """Mean drop of the scores (negative for a gain), its upper limit, how many examples lost, gained, there were."""

    mean: float
    limit: float
    worse: int
    better: int
    examples: int


def paired_drop(before: Tensor, after: Tensor, confidence: float) -> Drop:
    """`before` and `after` are scores of the same examples in the same order, (n,), higher is better.

    Raises:
        ValueError: other shapes, no example, or a confidence outside [0.5, 1).
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(f"scores of the same examples are needed, got shapes {before.shape} and {after.shape}")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"a confidence is in [0.5, 1), got {confidence}")
    drops = before.double() - after.double()
    count, widest = len(drops), float(drops.abs().max())
    mean = float(drops.sum()) / (count + 2)
    spread = (float(drops.square().sum()) + widest**2) / (count + 2) - mean**2
    limit = mean + NormalDist().inv_cdf(confidence) * math.sqrt(max(spread, 0.0) / (count + 2))
    return Drop(float(drops.mean()), limit, int((drops > 0).sum()), int((drops < 0).sum()), count)
