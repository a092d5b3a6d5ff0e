"""One range for each example of a batch: rounding at run time that no neighbour in the batch can change.

With the values x_n of the example n, all axes but the first together,

    l = min(0, min x_n)      h = max(0, max x_n)      s = (h - l) / 255      z = round(-l / s)
    q = clamp(round(x_n / s) + z, 0, 255)             x̂_n = (q - z) s

which is ONNX DynamicQuantizeLinear, taken example by example. There the range is that of the whole tensor, so that an
example is rounded more coarsely next to one with larger values, and its output depends on what it is batched with.
"""

from __future__ import annotations

from torch import Tensor

from lissom.functional.affine import SMALLEST_SCALE

STEPS = 255


def fake_quantize_samples(values: Tensor) -> Tensor:
    """x̂ of every value; (n, ...) to (n, ...).

    Raises:
        ValueError: there is no axis of examples.
    """
    if values.ndim < 1:
        raise ValueError("values of single examples need a first axis of examples, got a single number")
    axes = tuple(range(1, values.ndim))
    low, high = (values, values) if not axes else (values.amin(axes, keepdim=True), values.amax(axes, keepdim=True))
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    scale = ((high - low) / STEPS).clamp_min(SMALLEST_SCALE)
    zero = (-low / scale).round()
    return ((values / scale).round_().add_(zero).clamp_(0, STEPS) - zero) * scale
