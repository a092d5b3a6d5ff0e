"""Multiply-accumulates per operator.

Convention, once: one fused multiply-add is one MAC (`torch.utils.flop_counter` counts two operations), and
additions of biases, normalizations and activations count nothing. An operator in neither table is not guessed:
it is counted by name in `Graph.uncounted`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Sizes = Sequence[int]
Cost = Callable[[Sequence[Sizes | None], Sizes, Sequence[object]], int]
"""(shape of each argument or None, shape of the output, the arguments) -> MACs."""


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


def _rnn(gates: int) -> Cost:
    def cost(shapes: Sequence[Sizes | None], out: Sizes, args: Sequence[object]) -> int:
        source = _known(shapes[0])
        steps = source[0] * source[1]
        weights = args[2]
        if not isinstance(weights, (list, tuple)):
            return 0
        matrices = [w for w in _shapes_of(weights) if len(w) == 2]
        return steps * sum(math.prod(w) for w in matrices)

    del gates  # the gate count is inside the weight shapes: (gates * hidden, in)
    return cost


def _shapes_of(values: Sequence[object]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for value in values:
        meta = getattr(value, "meta", None)
        tensor = meta.get("val") if isinstance(meta, dict) else value
        shape = getattr(tensor, "shape", None)
        if shape is not None:
            found.append(tuple(int(s) for s in shape))
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
    "addmm": _addmm,
    "baddbmm": _addmm,
    "scaled_dot_product_attention": _attention,
    "lstm": _rnn(4),
    "gru": _rnn(3),
    "rnn_tanh": _rnn(1),
    "rnn_relu": _rnn(1),
}

NO_MACS = frozenset(
    """
    abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d add alias alpha_dropout
    amax amin any all arange argmax avg_pool1d avg_pool2d avg_pool3d batch_norm bernoulli bitwise_and bitwise_not
    bitwise_or cat ceil celu chunk clamp clamp_max clamp_min clone constant_pad_nd contiguous copy cos cumsum
    dequantize_per_channel dequantize_per_tensor detach div dropout elu embedding empty eq erf exp expand expand_as
    eye feature_dropout fill flatten flip floor floor_divide full full_like gather ge gelu getitem glu group_norm gt
    hardsigmoid hardswish hardtanh im2col index index_select instance_norm isnan item layer_norm le leaky_relu
    lift_fresh_copy linalg_vector_norm log log_softmax logical_and logical_not logical_or logsumexp lt masked_fill
    max max_pool1d max_pool2d max_pool3d maximum mean min minimum mish mul narrow ne neg new_ones new_zeros ones
    ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu quantize_per_tensor choose_qparams reciprocal
    reflection_pad2d relu relu6 remainder repeat repeat_interleave reshape rms_norm roll round rsqrt rsub scalar_tensor
    scatter select selu sigmoid sign silu sin slice softmax softplus split split_with_sizes sqrt squeeze stack std
    sub sum sym_size tanh tensor_split tile to _to_copy topk transpose tril triu type_as unbind unflatten unfold
    unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa var view view_as where zeros zeros_like numpy_T
    _assert_tensor_metadata _assert_scalar dynamic_quantize
    """.split()
)
"""Operators that move, select, normalize or map element by element."""


def macs(op: str, shapes: Sequence[Sizes | None], out: Sizes, args: Sequence[object]) -> int | None:
    """MACs of one call, for the whole batch; None when the operator's cost is not known."""
    if op in MACS:
        return MACS[op](shapes, out, args)
    return 0 if op in NO_MACS else None
