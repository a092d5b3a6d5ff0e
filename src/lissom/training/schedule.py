"""Learning rate: a linear warm-up, then half a cosine down to zero.

    rate(t) = peak * (t + 1) / w                                  t < w
    rate(t) = peak * (1 + cos(pi * (t - w) / (T - w))) / 2        w <= t < T,    w = round(warmup * T)

Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5 with one period and a lowest rate of zero; the warm-up is that
of Goyal et al. 2017 (arXiv:1706.02677), section 2.2.
"""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, peak: float, warmup: float) -> float:
    """The rate of `step` (from 0) out of `total`; steps beyond the last have the last one's rate."""
    step, rising = min(step, total - 1), round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(total - rising, 1)
    return peak * (1 + math.cos(math.pi * done)) / 2
