"""ONNX operators without weights, as functions of torch.

A value is a tensor, or what ONNX keeps in small tensors and torch in Python: a number, or a tuple of whole numbers
(sizes, axes, starts). Shapes stay symbolic that way when `torch.export` follows them. Attributes come in `given`,
missing inputs as None. Semantics: https://onnx.ai/onnx/operators/ (opset 13 and later).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.sources.shaping import SHAPING, axes_of, filled, tensor_of, tuple_of
from lissom.sources.unliftable import Unliftable

Given = Mapping[str, Any]
Operator = Callable[[Sequence[Any], Given], Any]


def _unary(of_tensor: Callable[[Tensor], Tensor], of_number: Callable[[float], Any] | None = None) -> Operator:
    def call(values: Sequence[Any], given: Given) -> Any:
        (x,) = values
        if isinstance(x, Tensor) or of_number is None:
            return of_tensor(tensor_of(x))
        return tuple(map(of_number, x)) if isinstance(x, tuple) else of_number(x)

    return call


def _binary(of_tensor: Callable[[Any, Any], Tensor], of_number: Callable[[Any, Any], Any]) -> Operator:
    def call(values: Sequence[Any], given: Given) -> Any:
        a, b = values
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            # A tuple is a tensor that was written out; a number broadcasts as it is.
            a, b = (tensor_of(v) if isinstance(v, tuple) else v for v in (a, b))
            return of_tensor(a, b)
        if isinstance(a, tuple) or isinstance(b, tuple):
            size = max(len(v) for v in (a, b) if isinstance(v, tuple))
            return tuple(of_number(one, two) for one, two in zip(_widened(a, size), _widened(b, size), strict=True))
        return of_number(a, b)

    return call


def _widened(value: Any, size: int) -> tuple[Any, ...]:
    held = tuple_of(value)
    return held * size if len(held) == 1 else held


def _divided(a: Any, b: Any) -> Any:
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


def _divided_tensors(a: Any, b: Any) -> Tensor:
    whole = not any(isinstance(v, float) or (isinstance(v, Tensor) and v.is_floating_point()) for v in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


def _folded(of_tensor: Callable[[Any, Any], Tensor], of_number: Callable[[Any, Any], Any]) -> Operator:
    pair = _binary(of_tensor, of_number)

    def call(values: Sequence[Any], given: Given) -> Any:
        found = values[0]
        for value in values[1:]:
            found = pair((found, value), given)
        return found

    return call


def _extreme(of_tensors: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    def call(a: Any, b: Any) -> Tensor:
        like = a if isinstance(a, Tensor) else b
        return of_tensors(*(v if isinstance(v, Tensor) else torch.as_tensor(v, dtype=like.dtype) for v in (a, b)))

    return call


def _clip(values: Sequence[Any], given: Given) -> Any:
    x, low, high = filled(values, 3)
    if (low, high) == (0.0, 6.0):
        return F.relu6(x)
    return torch.clamp(x, low, high) if low is not None or high is not None else x


def _hard_sigmoid(values: Sequence[Any], given: Given) -> Tensor:
    alpha, beta = given.get("alpha", 0.2), given.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(values[0])
    return torch.clamp(values[0] * alpha + beta, 0.0, 1.0)


def _prelu(values: Sequence[Any], given: Given) -> Tensor:
    x, slope = values
    return torch.where(x >= 0, x, x * slope)


def _where(values: Sequence[Any], given: Given) -> Any:
    chosen, a, b = values
    if not isinstance(chosen, Tensor):
        if isinstance(chosen, tuple):
            size = len(chosen)
            return tuple(x if c else y for c, x, y in zip(chosen, _widened(a, size), _widened(b, size), strict=True))
        return a if chosen else b
    return torch.where(chosen, *(tensor_of(v) if isinstance(v, tuple) else v for v in (a, b)))


def _reduced(of_tensor: Callable[..., Tensor]) -> Operator:
    def call(values: Sequence[Any], given: Given) -> Any:
        x = tensor_of(values[0])
        axes = axes_of(values, given)
        if not axes:
            if given.get("noop_with_empty_axes", 0):
                return x
            axes = tuple(range(x.ndim))
        return of_tensor(x, axes, bool(given.get("keepdims", 1)))

    return call


def _arg_max(values: Sequence[Any], given: Given) -> Tensor:
    return torch.argmax(values[0], given.get("axis", 0), keepdim=bool(given.get("keepdims", 1)))


def _global_average(values: Sequence[Any], given: Given) -> Tensor:
    x = values[0]
    return F.adaptive_avg_pool2d(x, 1) if x.ndim == 4 else x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _global_max(values: Sequence[Any], given: Given) -> Tensor:
    return values[0].amax(tuple(range(2, values[0].ndim)), keepdim=True)


def pads_of(x: Tensor, given: Given, kernel: Sequence[int]) -> tuple[int, ...]:
    """Padding of a window, `(begin..., end...)`; `auto_pad` computed from the size of `x` (n, c, ...)."""
    count = len(kernel)
    strides, dilations = given.get("strides", (1,) * count), given.get("dilations", (1,) * count)
    auto = given.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return tuple(given.get("pads", (0,) * 2 * count))
    if auto == "VALID":
        return (0,) * 2 * count
    begins, ends = list[int](), list[int]()
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if auto == "SAME_UPPER" else large)
        ends.append(large if auto == "SAME_UPPER" else small)
    return (*begins, *ends)


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """`x` (n, c, ...) with `pads` as ONNX orders them around its last axes."""
    count = len(pads) // 2
    order = [size for axis in reversed(range(count)) for size in (pads[axis], pads[axis + count])]
    return F.pad(x, order, value=value)


def _max_pool(values: Sequence[Any], given: Given) -> Tensor:
    x, kernel = values[0], tuple(given["kernel_shape"])
    count = len(kernel)
    pads = pads_of(x, given, kernel)
    padding = pads[:count]
    if pads[count:] != padding or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        x, padding = padded(x, pads, -math.inf), (0,) * count
    call = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[count]
    strides, dilations = given.get("strides", (1,) * count), given.get("dilations", (1,) * count)
    return call(x, kernel, strides, padding, dilations, ceil_mode=bool(given.get("ceil_mode", 0)))


def _average_pool(values: Sequence[Any], given: Given) -> Tensor:
    x, kernel = values[0], tuple(given["kernel_shape"])
    count = len(kernel)
    if any(d != 1 for d in given.get("dilations", ())):
        raise Unliftable("AveragePool with dilations")
    pads, counted = pads_of(x, given, kernel), bool(given.get("count_include_pad", 0))
    padding = pads[:count]
    if pads[count:] != padding:
        if not counted:
            raise Unliftable("AveragePool with unequal padding that does not count")
        x, padding = padded(x, pads), (0,) * count
    call = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[count]
    strides = tuple(given.get("strides", (1,) * count))
    return call(x, kernel, strides, padding, bool(given.get("ceil_mode", 0)), counted)


def _resize(values: Sequence[Any], given: Given) -> Tensor:
    x, _, scales, sizes = filled(values, 4)
    if sizes is not None and tuple_of(sizes):
        size = tuple_of(sizes)[2:]
    else:
        size = tuple(math.floor(n * s) for n, s in zip(x.shape[2:], tuple_of(scales)[2:], strict=True))
    mode = given.get("mode", "nearest")
    place = given.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return F.interpolate(x, size, mode="nearest" if place == "asymmetric" else "nearest-exact")
    names = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    if (mode, x.ndim) not in names or place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise Unliftable(f"Resize of mode {mode!r} with coordinates {place!r}")
    return F.interpolate(x, size, mode=names[mode, x.ndim], align_corners=place == "align_corners")


def _instance_norm(values: Sequence[Any], given: Given) -> Tensor:
    x, scale, bias = values
    return F.instance_norm(
        x, weight=tensor_of(scale, x), bias=tensor_of(bias, x), eps=given.get("epsilon", 1e-5), use_input_stats=True
    )


def _matmul(values: Sequence[Any], given: Given) -> Tensor:
    return torch.matmul(*values)


def _gemm(values: Sequence[Any], given: Given) -> Tensor:
    a, b, c = filled(values, 3)
    a, b = (v.T if given.get(name, 0) else v for v, name in ((a, "transA"), (b, "transB")))
    found = torch.matmul(a, b) * given.get("alpha", 1.0)
    return found if c is None else found + c * given.get("beta", 1.0)


def _mean_of_all(values: Sequence[Any], given: Given) -> Tensor:
    return cast(Tensor, sum(values)) / len(values)


OPERATORS: dict[str, Operator] = {
    **SHAPING,
    "Abs": _unary(torch.abs, abs),
    "Add": _binary(torch.add, operator.add),
    "And": _binary(torch.logical_and, lambda a, b: a and b),
    "ArgMax": _arg_max,
    "AveragePool": _average_pool,
    "Ceil": _unary(torch.ceil, math.ceil),
    "Celu": lambda v, g: F.celu(v[0], g.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(_divided_tensors, _divided),
    "Elu": lambda v, g: F.elu(v[0], g.get("alpha", 1.0)),
    "Equal": _binary(torch.eq, operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor, math.floor),
    "Gelu": lambda v, g: F.gelu(v[0], approximate=g.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "Greater": _binary(torch.gt, operator.gt),
    "GreaterOrEqual": _binary(torch.ge, operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda v, g: F.hardswish(v[0]),
    "InstanceNormalization": _instance_norm,
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": lambda v, g: F.leaky_relu(v[0], g.get("alpha", 0.01)),
    "Less": _binary(torch.lt, operator.lt),
    "LessOrEqual": _binary(torch.le, operator.le),
    "Log": _unary(torch.log, math.log),
    "LogSoftmax": lambda v, g: torch.log_softmax(v[0], g.get("axis", -1)),
    "MatMul": _matmul,
    "Max": _folded(_extreme(torch.maximum), max),
    "MaxPool": _max_pool,
    "Mean": _mean_of_all,
    "Min": _folded(_extreme(torch.minimum), min),
    "Mish": lambda v, g: F.mish(v[0]),
    "Mod": _binary(torch.remainder, operator.mod),
    "Mul": _binary(torch.mul, operator.mul),
    "Neg": _unary(torch.neg, operator.neg),
    "Not": _unary(torch.logical_not, operator.not_),
    "Or": _binary(torch.logical_or, lambda a, b: a or b),
    "PRelu": _prelu,
    "Pow": _binary(torch.pow, operator.pow),
    "Reciprocal": _unary(torch.reciprocal, lambda x: 1 / x),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "Relu": _unary(F.relu),
    "Resize": _resize,
    "Round": _unary(torch.round, round),
    "Selu": _unary(F.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Softmax": lambda v, g: torch.softmax(v[0], g.get("axis", -1)),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "Sqrt": _unary(torch.sqrt, math.sqrt),
    "Sub": _binary(torch.sub, operator.sub),
    "Sum": _folded(torch.add, operator.add),
    "Tanh": _unary(torch.tanh, math.tanh),
    "Where": _where,
}
"""Everything that is lifted besides layers with weights (`lissom.sources.layers`)."""
