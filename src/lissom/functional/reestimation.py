"""Statistics of normalizations taken again under rounded weights, for layers whose normalization was folded.

A normalization behind y~ = W~ x~ with the statistics (m~, d~) of y~ itself, and the gain and shift with which it gave
mean m and deviation d in the original, computes

    y' = (y~ - m~) d / d~ + m

per output channel. Folded, W~ is multiplied by f = d / d~, and the bias becomes m - f (m~ - b). Integer steps of one
scale an output stay what they are: f multiplies the scale.

References: Sun et al. 2019, "Hybrid 8-bit Floating Point (HFP8) Training and Inference for Deep Neural Networks"
(NeurIPS 32), section 2.3, re-tunes the statistics of batch normalization for 8-bit inference; Nagel et al. 2022,
"Overcoming Oscillations in Quantization-Aware Training" (arXiv:2203.11086), section 2.3.1, re-estimates them after
training. Deviations: m and d are those of the original's outputs on the same data, in place of shift and gain, so that
layers without a normalization have them too; f stays in [1/2, 2], and is 1 where a channel is constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.functional.bias import channel_mean

FURTHEST = 2.0
CONSTANT = 1e-6
"""Of the largest deviation of a layer's channels: below it a channel carries nothing to scale by."""


def channel_moments(parts: Sequence[Tensor], axis: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of every slice along `axis` over all `parts` together, (channels,), float64."""
    mean = channel_mean(parts, axis)
    shape = [1] * parts[0].ndim
    shape[axis] = -1
    return mean, channel_mean(((part.double() - mean.reshape(shape)).square() for part in parts), axis)


def reestimated(wanted: Sequence[Tensor], got: Sequence[Tensor], bias: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The factor of the weight, and the bias, that give `got` the mean and deviation of `wanted`; (channels,), float64.

    `bias` is in `got` already.
    """
    (mean, variance), (mean_now, variance_now) = channel_moments(wanted, axis), channel_moments(got, axis)
    lively = torch.minimum(variance, variance_now) > CONSTANT**2 * variance.max()
    factor = torch.where(lively, (variance / variance_now).sqrt(), 1.0).clamp(1 / FURTHEST, FURTHEST)
    return factor, mean - factor * (mean_now - bias.double())
