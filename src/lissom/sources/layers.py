"""ONNX operators with constant weights, as modules of torch: what is pruned, factorized and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lissom.sources.operators import padded, pads_of
from lissom.sources.unliftable import Unliftable

Array = NDArray[Any]
Given = Mapping[str, Any]
Layer = tuple[nn.Module, tuple[int, ...]]
"""A module, and the padding `(begin..., end...)` that goes before it (empty for none)."""

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def layer_of(op: str, x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer | None:
    """The module for an operator on `x` whose other inputs are all constant; None for operators that are none.

    Raises:
        Unliftable: a form of the operator that torch's module has not.
    """
    make = _LAYERS.get(op)
    return make(x, weights, given) if make else None


def _fill(module: nn.Module, **values: Array | None) -> nn.Module:
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                held[name].copy_(torch.from_numpy(np.array(value)))
    return module


def _convolution(x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer:
    weight, bias = (*weights, None)[:2]
    assert weight is not None
    kernel, groups = weight.shape[2:], given.get("group", 1)
    count = len(kernel)
    if count not in CONVOLUTIONS:
        raise Unliftable(f"Conv over {count} axes")
    pads = pads_of(x, given, kernel)
    even = pads[:count] == pads[count:]
    padding: Any = pads[:count] if even else 0
    made = CONVOLUTIONS[count](
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride=tuple(given.get("strides", (1,) * count)),
        padding=padding,
        dilation=tuple(given.get("dilations", (1,) * count)),
        groups=groups,
        bias=bias is not None,
    )
    return _fill(made, weight=weight, bias=bias), () if even else pads


def _transposed(x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer:
    weight, bias = (*weights, None)[:2]
    assert weight is not None
    kernel, groups = weight.shape[2:], given.get("group", 1)
    count = len(kernel)
    pads = tuple(given.get("pads", (0,) * 2 * count))
    plain = given.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in given
    if count not in TRANSPOSED or not plain or pads[:count] != pads[count:]:
        raise Unliftable("ConvTranspose with unequal padding or a given output shape")
    made = TRANSPOSED[count](
        weight.shape[0],
        weight.shape[1] * groups,
        kernel,
        stride=tuple(given.get("strides", (1,) * count)),
        padding=pads[:count],
        output_padding=tuple(given.get("output_padding", (0,) * count)),
        dilation=tuple(given.get("dilations", (1,) * count)),
        groups=groups,
        bias=bias is not None,
    )
    return _fill(made, weight=weight, bias=bias), ()


def _gemm(x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer | None:
    weight, bias = (*weights, None)[:2]
    assert weight is not None
    if given.get("transA", 0) or (bias is not None and bias.ndim == 2 and bias.shape[0] != 1):
        return None
    weight = weight if given.get("transB", 0) else weight.T
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), (weight.shape[0],)) * np.float32(given.get("beta", 1.0))
    return linear(weight * np.float32(given.get("alpha", 1.0)), bias)


def linear(weight: Array, bias: Array | None) -> Layer:
    """`x @ weight.T + bias`: weight (out, in), bias (out,)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _fill(made, weight=weight, bias=bias), ()


def _matmul(x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer | None:
    (weight,) = weights
    return linear(weight.T, None) if weight is not None and weight.ndim == 2 else None


def _batch_norm(x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer:
    scale, bias, mean, var = weights
    if given.get("training_mode", 0):
        raise Unliftable("BatchNormalization in training mode")
    assert scale is not None
    made = NORMS[x.ndim](len(scale), given.get("epsilon", 1e-5), 1 - given.get("momentum", 0.9))
    return _fill(made, weight=scale, bias=bias, running_mean=mean, running_var=var), ()


def _layer_norm(x: Tensor, weights: Sequence[Array | None], given: Given) -> Layer | None:
    scale, bias = (*weights, None)[:2]
    axis = given.get("axis", -1)
    shape = list(x.shape[axis % x.ndim :])
    if scale is None or list(scale.shape) != shape:
        raise Unliftable("LayerNormalization with a scale that is broadcast")
    made = nn.LayerNorm(shape, given.get("epsilon", 1e-5), bias=bias is not None)
    return _fill(made, weight=scale, bias=bias), ()


def embedding(table: Array) -> Layer:
    """`table[index]`, table (entries, features)."""
    return _fill(nn.Embedding(*table.shape), weight=table), ()


def pad_before(values: Sequence[Any], given: Given) -> Tensor:
    """The step that pads unequally before a convolution."""
    return padded(values[0], given["pads"])


_LAYERS: dict[str, Callable[[Tensor, Sequence[Array | None], Given], Layer | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
}
LAYERS = frozenset(_LAYERS)
