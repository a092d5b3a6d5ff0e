"""Batch normalization folded into the layer before it.

At inference y = gamma * (W x + b - mu) / sqrt(var + eps) + beta is one affine layer:

    W' = W * g,    b' = (b - mu) * g + beta,    g = gamma / sqrt(var + eps)     along W's output axis

Reference: Jacob et al. 2018 (arXiv:1712.05877), section 3.2. Computed in float64, so that folding adds no rounding
beyond the final cast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Norm(NamedTuple):
    """Inference parameters of a batch normalization, each of shape (channels,)."""

    mean: Tensor
    variance: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    eps: float


def fold_norm(weight: Tensor, bias: Tensor | None, norm: Norm, axis: int) -> tuple[Tensor, Tensor]:
    """The folded weight (same shape) and bias (channels,); `axis` is the output axis of `weight`."""
    wide = torch.float64
    gain = torch.rsqrt(norm.variance.to(wide) + norm.eps)
    if norm.gamma is not None:
        gain = gain * norm.gamma.to(wide)
    shift = -norm.mean.to(wide) if bias is None else bias.to(wide) - norm.mean.to(wide)
    shift = shift * gain
    if norm.beta is not None:
        shift = shift + norm.beta.to(wide)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return (weight.to(wide) * gain.reshape(shape)).to(weight.dtype), shift.to(weight.dtype)
