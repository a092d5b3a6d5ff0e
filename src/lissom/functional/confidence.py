"""How far the confidence of answers is from how often they are right.

    ECE = sum_b n_b / n |mean of right in b - mean of confidence in b|

Guo et al. 2017 (arXiv:1706.04599), equation 3, over equal intervals b of the confidence, (0, 1/m], (1/m, 2/m], ...
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 15
"""As in the paper's tables."""


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of `(n,)` probabilities of the answers given, and whether `(n,)` they were right."""
    place = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right.double() - confidence.double())
    return float(gaps.abs().sum() / max(len(confidence), 1))
