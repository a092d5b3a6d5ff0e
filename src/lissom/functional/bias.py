"""Bias correction: the mean error of a rounded layer, given back through its bias.

    b <- b + E[W x] - E[W~ x~]

per output channel, over data and positions; x and W are those of the original, x~ and W~ those of the rounded network
with all layers before this one corrected.

Reference: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(arXiv:1906.04721), section 4.2 and appendix D, the empirical form, taken before the activation.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def channel_mean(parts: Iterable[Tensor], axis: int) -> Tensor:
    """Mean of every slice along `axis` over all `parts` together, (channels,), float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for part in parts:
        rows = part.detach().movedim(axis, -1).flatten(0, -2)
        total, count = total + rows.double().sum(0), count + len(rows)
    return total / max(count, 1)


def bias_shift(wanted: Iterable[Tensor], got: Iterable[Tensor], axis: int) -> Tensor:
    """What to add to the bias so that `got` has the means of `wanted` along `axis`, (channels,), float64."""
    return channel_mean(wanted, axis) - channel_mean(got, axis)
