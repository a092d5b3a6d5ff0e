"""Which rule belongs to which operator. An operator that is not here freezes the axes that reach it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lissom.graph import coupling_maths as maths
from lissom.graph import coupling_moves as moves
from lissom.graph import coupling_routes as routes
from lissom.graph.coupling import Call, Value

Rule = Callable[[Call], Value]

_RULES: Mapping[Rule, str] = {
    moves.same: """
        alias clone contiguous detach detach_ dropout feature_dropout alpha_dropout feature_alpha_dropout
        lift_fresh_copy to _to_copy type_as nan_to_num relu relu6 gelu silu mish sigmoid hardsigmoid hardswish hardtanh
        tanh elu selu celu leaky_relu softplus softsign logsigmoid log_sigmoid tanhshrink hardshrink softshrink
        threshold abs neg exp expm1 log log2 log1p sqrt rsqrt square reciprocal sin cos tan asin acos atan sinh cosh erf
        erfinv floor ceil round trunc frac sign isnan isinf isfinite logical_not bitwise_not logit rrelu
    """,
    moves.like: "zero zeros_like ones_like full_like empty_like",
    moves.fill: "zeros ones full empty new_zeros new_ones new_full new_empty scalar_tensor",
    moves.counted: "arange linspace eye",
    moves.reshape: "view reshape _unsafe_view flatten unflatten reshape_as view_as",
    moves.squeeze: "squeeze unsqueeze",
    moves.permute: "permute",
    moves.transpose: "transpose swapaxes swapdims",
    moves.reverse: "t numpy_T",
    moves.transpose_last: "mT",
    moves.movedim: "movedim",
    moves.expand: "expand expand_as broadcast_to",
    moves.repeat: "repeat tile",
    moves.repeat_interleave: "repeat_interleave",
    moves.concatenate: "cat concat",
    moves.stack: "stack",
    moves.split: "split split_with_sizes chunk tensor_split",
    moves.unbind: "unbind",
    moves.select: "select",
    moves.narrow: "slice narrow",
    moves.roll: "roll",
    moves.pad: "pad constant_pad_nd",
    moves.index: "index",
    moves.index_select: "index_select",
    moves.embedding: "embedding",
    moves.pixel_shuffle: "pixel_shuffle",
    moves.pixel_unshuffle: "pixel_unshuffle",
    moves.channel_shuffle: "channel_shuffle native_channel_shuffle",
    moves.im2col: "im2col",
    moves.col2im: "col2im",
    moves.unfold: "unfold",
    maths.elementwise: """
        add sub mul div rsub pow where masked_fill addcmul addcdiv lerp clamp clamp_min clamp_max maximum minimum eq ne
        lt le gt ge logical_and logical_or bitwise_and bitwise_or floor_divide remainder fmod copy atan2 fill
    """,
    maths.linear: "linear",
    maths.matmul: "matmul mm bmm",
    maths.addmm: "addmm baddbmm",
    maths.einsum: "einsum",
    maths.attention: "scaled_dot_product_attention",
    maths.convolution: """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    """,
    maths.batch_norm: "batch_norm instance_norm",
    maths.layer_norm: "layer_norm rms_norm",
    maths.group_norm: "group_norm",
    maths.prelu: "prelu",
    maths.weight_norm: "_weight_norm",
    maths.reduction: """
        sum mean var std var_mean std_mean linalg_vector_norm amax amin max min prod logsumexp any all argmax argmin
        count_nonzero
    """,
    maths.along: "cumsum cumprod flip sort argsort normalize",
    routes.softmax: "softmax log_softmax _softmax",
    routes.topk: "topk",
    routes.scatter: "scatter scatter_add",
    routes.gather: "gather",
    routes.one_hot: "one_hot",
    maths.gated: "glu",
    maths.spatial: """
        max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d max_pool2d_with_indices upsample_nearest1d
        upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d _upsample_bicubic2d_aa
        _upsample_bilinear2d_aa
    """,
    maths.recurrent: "lstm gru rnn_tanh rnn_relu",
}

RULES: Mapping[str, Rule] = {op: rule for rule, ops in _RULES.items() for op in ops.split()}

ONE_OR_TWO = frozenset({"max", "min"})
"""Element by element with two tensors, a reduction with one."""


def rule_of(op: str, tensors: int) -> Rule:
    if op in ONE_OR_TWO and tensors == 2:
        return maths.elementwise
    return RULES.get(op, moves.unknown)
