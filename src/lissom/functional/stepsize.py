"""Learned step sizes: gradients through rounding, for the value, the scale and the zero point.

    v = x / s        q = clamp(round(v) + round(z), low, high)        x̂ = (q - round(z)) s

With rounding taken as the identity where it is differentiated (straight-through):

                          d x̂ / d x      d x̂ / d s             d x̂ / d z
    low < v + z < high    1              round(v) - v           0
    v + z <= low          0              low - round(z)         -s
    v + z >= high         0              high - round(z)        -s

The gradients of s and z are multiplied by g = 1 / sqrt(n q), with n the number of values that share them (weights; for
activations, values of one example) and q the largest step on the positive side, so that a step size moves as fast,
relative to itself, as the weights do.

References: Esser et al. 2020, "Learned Step Size Quantization" (arXiv:1902.08153), equations 1 to 3 and section 2.2;
Bhalgat et al. 2020, "LSQ+" (arXiv:2004.09576), equations 4 and 5, for the zero point. Deviation: LSQ+ learns a real
offset beta, and here z = low - beta / s is rounded, since integer kernels have a whole zero point and must hold 0
exactly; the gradient of beta is the same.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, gain: float) -> Tensor:
        whole = torch.round(zero)
        v = x / scale
        inside = (v + whole > low) & (v + whole < high)
        steps = torch.round(v).add_(whole).clamp_(low, high).sub_(whole)
        made = steps * scale
        # d x̂ / d s, in place of what it is made of: one tensor to keep.
        ctx.save_for_backward(inside, steps.sub_(v.mul_(inside)), scale)
        ctx.gain, ctx.zero_shape = gain, zero.shape
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope, scale = ctx.saved_tensors
        given = grads[0]
        of_scale = _summed(given * slope, scale.shape) * ctx.gain
        own = given * inside
        of_zero = None
        if ctx.needs_input_grad[2]:
            of_zero = _summed((given - own) * -scale, ctx.zero_shape) * ctx.gain
        return own, of_scale, of_zero, None, None, None


def _summed(value: Tensor, shape: torch.Size) -> Tensor:
    return value.sum().reshape(shape) if math.prod(shape) == 1 else value.sum_to_size(shape)


def fake_quantize_learned(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, gain: float) -> Tensor:
    """x̂, same shape; differentiable by `x`, `scale` and `zero`.

    Args:
        scale, zero: of shapes that broadcast to that of `x`; scales are positive.
        low, high: smallest and largest step.
        gain: g, which the gradients of `scale` and `zero` are multiplied by.
    """
    return _Rounded.apply(x, scale, zero, low, high, gain)  # pyright: ignore[reportReturnType, reportUnknownVariableType]


def gain_of(values: int, high: int) -> float:
    """g of `values` that share a scale, the largest step being `high`."""
    return 1.0 / math.sqrt(max(values, 1) * max(high, 1))
