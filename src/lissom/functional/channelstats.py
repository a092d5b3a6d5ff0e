"""Mean and variance of every channel, as a batch normalization takes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean_and_variance(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Over all pieces (b, channels, ...), float64; the variance is that of what was seen, not of what it is from."""
    rows = [value.double().movedim(1, -1).flatten(0, -2) for value in values]
    count = sum(len(one) for one in rows)
    zero = torch.zeros((), dtype=torch.float64)
    mean = sum((one.sum(0) for one in rows), zero) / count
    # Around the mean: squares of large values would cancel.
    return mean, sum(((one - mean).square().sum(0) for one in rows), zero) / count
