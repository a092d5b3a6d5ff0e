"""Affine quantization: real numbers on an integer grid.

    q = clamp(round(x / s) + z, q_min, q_max)          x̂ = (q - z) * s

with scale s > 0, zero point z, rounding half to even as in ONNX QuantizeLinear and the integer kernels. Inside the
represented range |x - x̂| <= s / 2; outside it is clipped.

Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", equations 1 and 2 (arXiv:1712.05877). Deviation: weights use [-127, 127], so that negation is exact and
u8 x s8 products stay inside what every kernel accumulates.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor

from lissom.settings import Setting

IntType = Literal["int8", "uint8"]
ActivationBits = Literal[8, 4]

LIMITS: dict[IntType, tuple[int, int]] = {"int8": (-128, 127), "uint8": (0, 255)}
WEIGHT_LIMIT = 127
NESTED = 17
"""8-bit steps to one of 4 bits: (2^8 - 1) / (2^4 - 1)."""
DEAD_CHANNEL = 2.0**-20
SMALLEST_SCALE = 2.0**-96
"""Keeps 1 / s and s * s finite in float32, also for all-zero and denormal ranges."""
LARGEST = float(torch.finfo(torch.float32).max)


def limits_of(dtype: IntType, bits: ActivationBits) -> tuple[int, int]:
    """Smallest and largest step: those of the type, or the 16 of a 4-bit integer kept in it."""
    low, high = LIMITS[dtype]
    return (low, high) if bits == 8 else (low // 16, high // 16)


def middle_of(dtype: IntType, bits: ActivationBits) -> int:
    """The zero point of a symmetric grid."""
    return 0 if dtype == "int8" else 2 ** (bits - 1)


def _eight(bits: object) -> bool:
    return bits == 8


class Affine(Setting):
    """Per-tensor quantization parameters. With 4 `bits` the type is the same, and 16 of its steps are used."""

    dtype: IntType
    scale: float
    zero_point: int
    # Left out of JSON where it is 8: plans without few bits stay as they were.
    bits: Annotated[ActivationBits, pydantic.Field(exclude_if=_eight)] = 8

    @property
    def limits(self) -> tuple[int, int]:
        return limits_of(self.dtype, self.bits)

    @property
    def low(self) -> float:
        return (self.limits[0] - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        return (self.limits[1] - self.zero_point) * self.scale


def nested(numbers: Affine) -> Affine:
    """The 8-bit grid with 17 steps to each of the 4-bit grid `numbers`, and the same ends.

    Rounding to it first changes nothing: half way between two of the 16 steps lies between two of the 256, since 17 is
    odd, and what the 256 clip the 16 would.
    """
    low, high = LIMITS[numbers.dtype]
    zero = min(max(NESTED * numbers.zero_point, low), high)
    return Affine(dtype=numbers.dtype, scale=_scale(numbers.scale / NESTED), zero_point=zero)


def affine(low: float, high: float, dtype: IntType, *, symmetric: bool, bits: ActivationBits = 8) -> Affine:
    """The parameters that represent [low, high], widened to hold 0 exactly.

    `symmetric` puts zero at the middle of the grid (0 for int8, 128 or 8 for uint8) and uses the larger magnitude; a
    range that is never negative on uint8 keeps zero point 0 either way.

    Raises:
        ValueError: a bound is NaN, infinite or beyond float32, or low > high.
    """
    if not (-LARGEST <= low <= high <= LARGEST):
        raise ValueError(f"a range needs finite float32 bounds with low <= high, got [{low}, {high}]")
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = float(
            limits_of(dtype, bits)[1]
        )  # nothing but zeros: any grid holds them, and this one suits every kernel
    q_min, q_max = limits_of(dtype, bits)
    if symmetric and not (dtype == "uint8" and low == 0.0):
        middle = middle_of(dtype, bits)
        scale = _scale(max(-low, high) / (q_max - middle))
        return Affine(dtype=dtype, scale=scale, zero_point=middle, bits=bits)
    scale = _scale((high - low) / (q_max - q_min))
    zero = round(q_min - low / scale)
    return Affine(dtype=dtype, scale=scale, zero_point=min(max(zero, q_min), q_max), bits=bits)


def fake_quantize(values: Tensor, numbers: Affine) -> Tensor:
    """x̂ of every value, same shape; float32."""
    return on_grid(values, numbers.scale, numbers.zero_point, *numbers.limits)


def on_grid(values: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """x̂ of every value for steps in [low, high], bit by bit what quantizing and restoring give, without the integers.

    Clipped before z would be added: clamp(q + z, low, high) - z = clamp(q, low - z, high - z), and no pass over the
    values is spent on z. `torch.fake_quantize_per_tensor_affine` takes ten times as long on a CPU.
    """
    return (values * (1.0 / scale)).round_().clamp_(low - zero_point, high - zero_point).mul_(scale)


def _scale(value: float) -> float:
    # Rounded to float32 once, here: every consumer of the number then sees the same one.
    return float(torch.tensor(max(value, SMALLEST_SCALE), dtype=torch.float32))


def weight_scales(weight: Tensor, axis: int) -> Tensor:
    """Symmetric int8 scales per slice along `axis`: max |w| / 127, shape (weight.shape[axis],), float32.

    No scale is below 2^-20 times the largest magnitude of the whole weight, which only slices more than 8000 times
    smaller than the largest reach (channels that training or folding has switched off): integer kernels refuse
    smaller multipliers. An all-zero weight has the scale 1.

    Raises:
        ValueError: the weight holds NaN or infinite values.
    """
    if not torch.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinite values")
    if weight.numel() == 0:
        return torch.ones(weight.shape[axis])
    largest = weight.detach().float().abs().movedim(axis, 0).reshape(weight.shape[axis], -1).amax(1)
    floor = max(float(largest.max()) * DEAD_CHANNEL, SMALLEST_SCALE)
    scales = (largest / WEIGHT_LIMIT).clamp_min(floor)
    return scales if largest.any() else torch.ones_like(scales)


def quantize_weight(weight: Tensor, scales: Tensor, axis: int) -> Tensor:
    """Int8 weight in [-127, 127], same shape."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = torch.round(weight.detach().float() / scales.reshape(shape))
    return steps.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)


def round_bias(bias: Tensor, weight_scale: Tensor, input_scale: float) -> Tensor:
    """The bias (out,) on the grid of the int32 accumulator, whose step is input scale times weight scale (out,).

    Reference: Jacob et al. 2018, section 2.4. Steps beyond int32 are clipped.
    """
    step = weight_scale.double() * input_scale
    steps = torch.round(bias.detach().double() / step).clamp(-(2**31), 2**31 - 1)
    return (steps * step).to(bias.dtype)


def fake_quantize_groups(values: Tensor, group: int) -> Tensor:
    """Symmetric int8 rounding of each run of `group` values along the last axis by its own largest magnitude.

    What a runtime does that quantizes the input of a linear layer when it runs; (..., k) to (..., k).
    """
    width = values.shape[-1]
    padded = torch.nn.functional.pad(values, (0, -width % group))
    parts = padded.reshape(*values.shape[:-1], -1, group)
    scales = (parts.abs().amax(-1, keepdim=True) / WEIGHT_LIMIT).clamp_min(SMALLEST_SCALE)
    rounded = torch.round(parts / scales).clamp(-128, 127) * scales
    return rounded.reshape(padded.shape)[..., :width]
