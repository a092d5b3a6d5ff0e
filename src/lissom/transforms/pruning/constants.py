"""Channels that say the same whatever they see: cut without loss, by moving what they add into a bias.

A channel whose scale is zero still emits f(shift). A layer that reads it gets a constant from it,

    delta_o = sum over cut constant channels c of  value_c * sum over the kernel of W[o, c, ...],

which its bias takes over, or the mean of the batch normalization behind it. Exact away from zero padding. Needs no
data: a channel counts as constant if it is so, everywhere, on the example inputs, which no channel that works is.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.graph.coupling import Call
from lissom.graph.describe import op_name
from lissom.graph.lockstep import interpreter, readers, run, set_tensor, tensor_of
from lissom.graph.moments import READABLE
from lissom.graph.resize import sliced_tensor
from lissom.task import Batch, contiguous
from lissom.transforms.pruning.recovery import Pair

STILL = 1e-6
"""Spread of a channel, as a share of its size, that rounding explains."""


@torch.no_grad()
def fold_constants_(pair: Pair, example: Batch) -> list[str]:
    """Move what cut constant channels add into biases of `pair.after`; the names of what changed."""
    inputs = contiguous(example)
    before = interpreter(pair.before, pytree.tree_leaves((inputs.args, dict(inputs.kwargs))))
    twins = {node.name: node for node in pair.after.graph.nodes}
    values = pair.sizes.channels.on(pair.before)
    counts = readers(pair.after)
    changed: list[str] = []
    for node in pair.before.graph.nodes:
        run(before, node)
        if node.op != "call_function" or op_name(node) not in READABLE or node.name not in twins:
            continue
        call = Call.of(pair.sizes.channels.axes, node, values)
        if call.given.get("groups", 1) == 1:
            delta = _added(pair, call, before.env[node.all_input_nodes[0]])
            home = _home(twins[node.name], counts) if delta is not None else None
            if delta is not None and home is not None:
                place, sign = home
                set_tensor(pair.after, place, tensor_of(pair.after, place) + sign * delta)
                changed.append(str(place.target))
    return changed


def _added(pair: Pair, call: Call, given: Tensor) -> Tensor | None:
    """What the cut constant channels add to every output that stays; None where there are none."""
    weight_node = cast(FxNode, call.given["weight"])
    if weight_node.op != "get_attr":
        return None
    axis = given.ndim - 1 if op_name(call.node) == "linear" else given.ndim - len(call.need("weight")) + 1
    term = call.need("input")[axis]
    gone = torch.ones(term.size, dtype=torch.bool)
    gone[torch.from_numpy(pair.sizes.places(term))] = False
    rows = given.movedim(axis, 0).flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    gone &= (high - low) <= STILL * high.abs()
    gone &= high != 0
    if not gone.any():
        return None
    weight = tensor_of(pair.before, weight_node)
    each = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    kept = {axis: places for axis, places in pair.sizes.of_axes(call.need("weight")).items() if axis == 0}
    return sliced_tensor(each[:, gone] @ high[gone], kept)


def _home(node: FxNode, counts: dict[str, int]) -> tuple[FxNode, int] | None:
    """The bias that can take a constant, or the mean of the normalization behind (which subtracts it)."""
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    place: FxNode | None = bias if isinstance(bias, FxNode) and bias.op == "get_attr" else None
    sign = 1
    if place is None and len(node.users) == 1 and op_name(next(iter(node.users))) == "batch_norm":
        mean = next(iter(node.users)).args[3]
        place, sign = (mean, -1) if isinstance(mean, FxNode) and mean.op == "get_attr" else (None, 1)
    return None if place is None or counts.get(str(place.target), 0) > 1 else (place, sign)
