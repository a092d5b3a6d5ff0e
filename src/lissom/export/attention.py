"""Attention in the one form that torch.onnx translates: four axes, results in plain memory order."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph
from torch.fx import Node as FxNode

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_AXES = 4


def plain_attention_(program: ExportedProgram) -> None:
    """Rewrite the program's attention in place.

    Windows and the like stand before the heads as axes of their own: they are folded into the batch and unfolded
    afterwards. Heads that the model has folded into the batch get an axis of one again. A masked attention is taken
    apart by torch.onnx, and its result then lies in memory in another order than the program says, which views of it
    do not survive: a copy stands between.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is not _ATTENTION or "attn_mask" in node.kwargs:
            continue
        query = node.args[0].meta["val"]
        mask = node.args[3] if len(node.args) > 3 else None
        if query.ndim > _AXES and mask is None and all(isinstance(size, int) for size in query.shape[1:]):
            ahead = query.ndim - _AXES
            _between_(
                graph,
                node,
                [(torch.ops.aten.flatten.using_ints, x, 0, ahead) for x in node.args[:3]],
                (torch.ops.aten.reshape.default, [-1, *node.meta["val"].shape[1:]]),
            )
        elif query.ndim == _AXES - 1:
            deep = [x for x in (*node.args[:3], mask) if isinstance(x, FxNode) and x.meta["val"].ndim == query.ndim]
            before = [(torch.ops.aten.unsqueeze.default, x, 1) for x in deep]
            _between_(graph, node, before, (torch.ops.aten.squeeze.dim, 1))
        if mask is not None and node.meta["val"].ndim == _AXES and not node.meta["val"].is_contiguous():
            _copy_(graph, node)
    graph.lint()
    program.graph_module.recompile()


def _between_(graph: Graph, node: FxNode, before: list[tuple[Any, ...]], after: tuple[Any, ...]) -> None:
    """Put `before` (operator, input, more) ahead of inputs of the node, and `after` (operator, more) behind it."""
    users = list(node.users)
    with graph.inserting_before(node):
        made = {x: _call(graph, target, node, x, *more) for target, x, *more in before}
    node.args = tuple(made.get(x, x) if isinstance(x, FxNode) else x for x in node.args)
    values = [x.meta["val"] if isinstance(x, FxNode) else x for x in node.args]
    node.meta["val"] = _ATTENTION(*values, **node.kwargs)
    with graph.inserting_after(node):
        found = _call(graph, after[0], node, node, *after[1:])
    for user in users:
        user.replace_input_with(node, found)


def _copy_(graph: Graph, node: FxNode) -> None:
    users = list(node.users)
    with graph.inserting_after(node):
        copied = graph.call_function(torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    copied.meta.update({**node.meta, "val": node.meta["val"].contiguous()})
    for user in users:
        user.replace_input_with(node, copied)


def _call(graph: Graph, target: Any, like: FxNode, *args: Any) -> FxNode:
    """A call whose value is worked out on the fake tensors that the program carries."""
    made = graph.call_function(target, args)
    values = [arg.meta["val"] if isinstance(arg, FxNode) else arg for arg in args]
    made.meta.update({**like.meta, "val": target(*values)})
    return made
