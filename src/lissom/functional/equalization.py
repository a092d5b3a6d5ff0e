"""Scales moved from one layer to the next, so that both and what lies between them round better.

For y = W2 f(W1 x + b1) with f(s a) = s f(a) for s > 0 (ReLU, leaky ReLU, the identity), and S = diag(s):

    y = (W2 S) f((S^-1 W1) x + S^-1 b1)

Cross-layer equalization   s_i = sqrt(r1_i r2_i) / r2_i
SmoothQuant                s_j = max|X_j|^a / max|W_j|^(1-a)

r1_i and r2_i are the largest |weight| that makes and that reads channel i, X_j is channel j of what the second layer
reads, W_j the weights that read it.

References: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(arXiv:1906.04721), equations 7 and 11; Xiao et al. 2022, "SmoothQuant" (arXiv:2211.10438), equation 4. Deviations: a
channel with a range of zero is left alone, and scales stay between 2^-10 and 2^10.
"""

from __future__ import annotations

import torch
from torch import Tensor

FURTHEST = 2.0**10


def cross_layer_scales(made: Tensor, read: Tensor) -> Tensor:
    """s (channels,) from the ranges r1 and r2 (channels,) of the weights before and after, all in float32.

    Both layers then have the range sqrt(r1 r2) in every channel.
    """
    return _safe((made.float() * read.float()).sqrt() / read.float())


def smooth_scales(activation: Tensor, read: Tensor, strength: float = 0.5) -> Tensor:
    """s (channels,) from the largest magnitude of each channel of the activation, and of the weights that read it.

    `strength` is a: 0 evens out the weights, 1 the activations. The scales are divided by their geometric mean, which
    a per-tensor or per-channel rounding does not notice.
    """
    raw = activation.float().pow(strength) / read.float().pow(1 - strength)
    good = torch.isfinite(raw) & (raw > 0)
    if not bool(good.any()):
        return torch.ones_like(raw)
    middle = raw[good].log().mean().exp()
    return _safe(raw / middle)


def channel_ranges(weight: Tensor, *, groups: int = 1) -> Tensor:
    """Largest |weight| that reads each input channel: (out, in / groups, *kernel) to (in,)."""
    parts = weight.detach().float().abs().reshape(groups, -1, *weight.shape[1:])
    return parts.amax(1).reshape(groups * weight.shape[1], -1).amax(1)


def scale_inputs(weight: Tensor, scales: Tensor, *, groups: int = 1) -> Tensor:
    """W S: the weight (out, in / groups, *kernel) with the columns of input channel i multiplied by s_i (in,)."""
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    shape = (groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (parts * scales.to(weight.dtype).reshape(shape)).reshape(weight.shape)


def scale_outputs(tensor: Tensor, scales: Tensor) -> Tensor:
    """S^-1 W, or S^-1 b: slice i of axis 0 divided by s_i (out,)."""
    return tensor / scales.to(tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1))


def _safe(scales: Tensor) -> Tensor:
    good = torch.isfinite(scales) & (scales > 0)
    return torch.where(good, scales, 1.0).clamp(1 / FURTHEST, FURTHEST)
