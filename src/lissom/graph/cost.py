"""Multiply-accumulates per operator.

Convention, once: one fused multiply-add is one MAC (`torch.utils.flop_counter` counts two operations), and
additions of biases, normalizations and activations count nothing. An operator in neither table is not guessed: it is
counted by name in `Graph.uncounted`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import SymInt

Sizes = Sequence[int]
Cost = Callable[[Sequence[Sizes | None], Sizes, Sequence[object]], int | None]
"""(shape of each argument or None, shape of the output, the arguments) -> MACs, or None where not known."""


def _conv(shapes: Sequence[Sizes | None], out: Sizes, _: Sequence[object]) -> int:
    weight = _known(shapes[1])  # (out, in / groups, *kernel)
    return math.prod(out) * math.prod(weight[1:])


def _conv_transpose(shapes: Sequence[Sizes | None], _: Sizes, __: Sequence[object]) -> int:
    source, weight = _known(shapes[0]), _known(shapes[1])  # weight: (in, out / groups, *kernel)
    return math.prod(source) * math.prod(weight[1:])


def _convolution(shapes: Sequence[Sizes | None], out: Sizes, args: Sequence[object]) -> int:
    transposed = bool(args[6])
    return (_conv_transpose if transposed else _conv)(shapes, out, args)


def _matmul(shapes: Sequence[Sizes | None], out: Sizes, _: Sequence[object]) -> int:
    return math.prod(out) * _known(shapes[0])[-1]


def _addmm(shapes: Sequence[Sizes | None], out: Sizes, _: Sequence[object]) -> int:
    return math.prod(out) * _known(shapes[1])[-1]


def _attention(shapes: Sequence[Sizes | None], _: Sizes, __: Sequence[object]) -> int:
    query, key, value = (_known(s) for s in shapes[:3])  # (..., heads, length, width)
    rows = math.prod(query[:-1])
    return rows * key[-2] * (query[-1] + value[-1])


def _recurrent(shapes: Sequence[Sizes | None], _: Sizes, args: Sequence[object]) -> int:
    # LSTM, GRU and plain cells alike: every step multiplies by every weight matrix, (gates * hidden, in), once.
    source = _known(shapes[0])  # (length, batch, in) or (batch, length, in)
    weights = args[2]
    if not isinstance(weights, (list, tuple)):
        return 0
    matrices = [shape for shape in _shapes_of(weights) if len(shape) == 2]
    return source[0] * source[1] * sum(math.prod(shape) for shape in matrices)


def _einsum(_: Sequence[Sizes | None], __: Sizes, args: Sequence[object]) -> int | None:
    equation, tensors = args[0], args[1]
    assert isinstance(equation, str)
    assert isinstance(tensors, (list, tuple))
    if "." in equation or len(tensors) > 2:
        return None
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for letters, shape in zip(terms, _shapes_of(tensors), strict=True):
        sizes.update(zip(letters, shape, strict=True))
    return math.prod(sizes.values()) if len(tensors) == 2 else 0


def _shapes_of(values: Sequence[object]) -> list[tuple[int, ...]]:
    """Shapes of the tensors among graph nodes or tensors; a free size counts as the example's."""
    found: list[tuple[int, ...]] = []
    for value in values:
        meta = getattr(value, "meta", None)
        tensor = meta.get("val") if isinstance(meta, dict) else value
        shape = getattr(tensor, "shape", None)
        if shape is not None:
            found.append(tuple(s.node.hint if isinstance(s, SymInt) else int(s) for s in shape))
    return found


def _known(shape: Sizes | None) -> Sizes:
    if shape is None:
        raise TypeError("a tensor argument has no shape")
    return shape


MACS: dict[str, Cost] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "conv_transpose1d": _conv_transpose,
    "conv_transpose2d": _conv_transpose,
    "conv_transpose3d": _conv_transpose,
    "convolution": _convolution,
    "linear": _matmul,
    "matmul": _matmul,
    "mm": _matmul,
    "bmm": _matmul,
    "mv": _matmul,
    "dot": _matmul,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "einsum": _einsum,
}

_MOVES_AND_MAPS = """
_assert_scalar _assert_tensor_metadata _to_copy _upsample_bicubic2d_aa _upsample_bilinear2d_aa _weight_norm
abs acos adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d add addcdiv addcmul
alias all alpha_dropout amax amin any arange argmax argmin argsort asin atan atan2 avg_pool1d avg_pool2d
avg_pool3d batch_norm bernoulli bitwise_and bitwise_not bitwise_or broadcast_to bucketize cat ceil celu
channel_shuffle choose_qparams chunk clamp clamp_max clamp_min clone constant_pad_nd contiguous copy cos cosh
count_nonzero cumprod cumsum dequantize_per_channel dequantize_per_tensor detach diag_embed diagonal div
dropout dynamic_quantize elu embedding empty eq erf erfinv exp expand expand_as expm1 eye feature_dropout fill
flatten flip floor floor_divide fmod frac full full_like gather ge gelu getitem glu group_norm gt hardshrink
hardsigmoid hardswish hardtanh im2col index index_add index_copy index_put index_select instance_norm isfinite
isinf isnan item layer_norm le leaky_relu lerp lift_fresh_copy linalg_vector_norm log log1p log2 log_sigmoid
log_softmax logical_and logical_not logical_or logit logsumexp lt masked_fill masked_scatter max max_pool1d
max_pool2d max_pool3d maximum mean meshgrid min minimum mish movedim mul nan_to_num narrow
mT native_channel_shuffle ne neg new_ones new_zeros nonzero norm normalize numel numpy_T one_hot ones ones_like
pad permute pixel_shuffle pixel_unshuffle pow prelu prod quantize_per_tensor reciprocal reflection_pad1d
reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad1d replication_pad2d reshape
rms_norm roll round rrelu rsqrt rsub scalar_tensor scatter scatter_add searchsorted select select_scatter selu
sigmoid sign silu sin sinh slice slice_scatter softmax softmin softplus softshrink sort split split_with_sizes
sqrt square squeeze stack std std_mean sub sum swapaxes sym_numel sym_size sym_stride tan tanh tanhshrink
tensor_split threshold tile to topk transpose tril triu trunc type_as unbind unflatten unfold unsqueeze
upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var var_mean
view view_as where zeros zeros_like
"""
NO_MACS = frozenset(_MOVES_AND_MAPS.split())
"""Operators that move, select, normalize or map element by element."""


def macs(op: str, shapes: Sequence[Sizes | None], out: Sizes, args: Sequence[object]) -> int | None:
    """MACs of one call, for the whole batch; None when the operator's cost is not known."""
    if op in MACS:
        return MACS[op](shapes, out, args)
    return 0 if op in NO_MACS else None
