"""A rounded graph for runs over many examples in torch: the same numbers, bit by bit, in fewer passes.

As it is written for exporters, such a graph restores every stored weight at every call (integers with one scale for a
row, integers with one for a group, float16), and makes integers of every activation only to turn them back, once for
each of its readers.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.functional.affine import on_grid
from lissom.graph.lockstep import attribute
from lissom.graph.trace import quiet
from lissom.transforms.quantization.grouped import RESTORE
from lissom.transforms.quantization.rewrite import OPS, finish_, widens

M = TypeVar("M", bound=nn.Module)
RESTORING = (OPS.dequantize_per_channel.default, RESTORE)
"""What turns stored integers into weights."""


def quick(module: M) -> M | GraphModule:
    """What `module` computes; its parameters are shared, its graph is not. One that is not a graph is returned."""
    if not isinstance(module, GraphModule):
        return module
    with quiet():
        made = GraphModule(module, copy.deepcopy(module.graph))
    for node in list(made.graph.nodes):
        if node.target is OPS.quantize_per_tensor.default:
            _round_once_(made, node)
        elif node.target in RESTORING or widens(made, node):
            _restore_once_(made, node)
    finish_(made)
    return made


def _round_once_(module: GraphModule, node: FxNode) -> None:
    source, scale, zero, low, high, _ = node.args
    restored = [
        user
        for user in node.users
        if user.target is OPS.dequantize_per_tensor.default and user.args[1:] == node.args[1:]
    ]
    if not restored:
        return
    with module.graph.inserting_after(node):
        made = module.graph.call_function(on_grid, (source, scale, zero, low, high))
    for user in restored:
        user.replace_all_uses_with(made)
        module.graph.erase_node(user)


def _restore_once_(module: GraphModule, node: FxNode) -> None:
    held = [one for one in node.args if isinstance(one, FxNode)]
    if any(one.op != "get_attr" for one in held):
        return
    args: list[Any] = [attribute(module, str(one.target)) if isinstance(one, FxNode) else one for one in node.args]
    name = f"restored_{node.name}"
    while hasattr(module, name):
        name += "_"
    with torch.no_grad():
        module.register_buffer(name, node.target(*args, **node.kwargs))  # type: ignore[operator]
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    node.replace_all_uses_with(constant)
    module.graph.erase_node(node)
