"""Rows of a table found as integers, and restored afterwards.

    embedding(ids) = int8[ids] * scale[ids]          int8 (rows, width), scale (rows,)

Restoring in front of the look-up would turn the whole table into floats at every call, for the few rows that are read.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.transforms.quantization.rewrite import OPS

ATEN = torch.ops.aten


def look_up_first_(module: GraphModule) -> None:
    """Move the restoring of a table behind every look-up in it."""
    for node in list(module.graph.nodes):
        if node.target is not ATEN.embedding.default:
            continue
        restored = node.args[0]
        if not isinstance(restored, FxNode) or restored.target is not OPS.dequantize_per_channel.default:
            continue
        table, scale = restored.args[0], restored.args[1]
        with module.graph.inserting_before(node):
            rows = module.graph.call_function(ATEN.embedding.default, (table, node.args[1]))
            steps = module.graph.call_function(ATEN._to_copy.default, (rows,), {"dtype": torch.float32})
            column = module.graph.call_function(ATEN.unsqueeze.default, (scale, 1))
            scales = module.graph.call_function(ATEN.embedding.default, (column, node.args[1]))
        # The node keeps its name and place: what reads it by name finds the same values.
        node.target, node.args, node.kwargs = ATEN.mul.Tensor, (steps, scales), {}
        if not restored.users:
            _drop_(module, restored)


def _drop_(module: GraphModule, restored: FxNode) -> None:
    """Take out the restoring of a table that nobody reads, with its zero points: they would stay in the file."""
    zero = restored.args[2]
    assert isinstance(zero, FxNode)
    module.graph.erase_node(restored)
    if not zero.users:
        owner, _, leaf = str(zero.target).rpartition(".")
        module.graph.erase_node(zero)
        delattr(module.get_submodule(owner), leaf)
