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
    afterwards. A masked attention is taken apart by torch.onnx, and its result then lies in memory in another order
    than the program says, which views of it do not survive: a copy stands between.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is not _ATTENTION:
            continue
        query = node.args[0].meta["val"]
        masked = len(node.args) > 3 and node.args[3] is not None
        if query.ndim > _AXES and not masked and all(isinstance(size, int) for size in query.shape[1:]):
            _fold_(graph, node, query.ndim)
        elif query.ndim == _AXES and masked and not node.meta["val"].is_contiguous():
            _copy_(graph, node)
    graph.lint()
    program.graph_module.recompile()


def _fold_(graph: Graph, node: FxNode, rank: int) -> None:
    sizes = list(node.meta["val"].shape[1:])
    with graph.inserting_before(node):
        folded = [_call(graph, torch.ops.aten.flatten.using_ints, node, x, 0, rank - _AXES) for x in node.args[:3]]
    node.args = (*folded, *node.args[3:])
    users = list(node.users)
    whole = node.meta["val"]
    node.meta["val"] = whole.flatten(0, rank - _AXES)
    with graph.inserting_after(node):
        unfolded = _call(graph, torch.ops.aten.reshape.default, node, node, [-1, *sizes])
    for user in users:
        user.replace_input_with(node, unfolded)


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
