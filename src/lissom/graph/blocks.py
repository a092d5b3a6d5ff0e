"""Residual blocks: modules whose output is their input when their branches are silent.

Inside a module with one input x and one output y of the same shape, x is carried along by additions that it is one
operand of, by copies, and by a ReLU where x itself comes out of one (relu(relu(x)) = relu(x)). If y is carried, the
module computes x + f(x), and without f it is x: it can be taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node as FxNode

from lissom.graph.describe import calls_of, hint_of, op_name
from lissom.graph.trace import Trace

COPIES = frozenset({"dropout", "feature_dropout", "alias", "contiguous", "clone", "detach", "to"})


@dataclass(frozen=True)
class Block:
    """`module` reads the value `source` and makes the value `output`; without its branches they are the same."""

    module: str
    source: str
    output: str
    nodes: tuple[str, ...]
    """All operators inside."""
    macs: int
    parameters: tuple[str, ...]
    """Those that nothing else reads."""


def find_blocks(trace: Trace) -> tuple[Block, ...]:
    """The innermost residual blocks of a traced model, in order."""
    inside: dict[str, list[FxNode]] = {}
    for node in trace.module.graph.nodes:
        if node.op != "call_function":
            continue
        for path in calls_of(node):
            inside.setdefault(path, []).append(node)
    # A module that is called again is no block: its second call is `path@1`.
    once = {path: nodes for path, nodes in inside.items() if path and "@" not in path}
    found = [block for path, nodes in once.items() if (block := _block(trace, path, nodes))]
    names = [block.module for block in found]
    return tuple(b for b in found if not any(other.startswith(f"{b.module}.") for other in names))


def _block(trace: Trace, path: str, nodes: list[FxNode]) -> Block | None:
    own = set(nodes)
    sources = {s for n in nodes for s in n.all_input_nodes if s not in own and s.op != "get_attr" and _is_tensor(s)}
    outputs = [n for n in nodes if any(user not in own for user in n.users) and _is_tensor(n)]
    if len(sources) != 1 or len(outputs) != 1:
        return None
    (source,), (output,) = sources, outputs
    if _shape(source) != _shape(output) or not _carries(source, output, nodes):
        return None
    readers = {tensor.name: set(tensor.used_by) for tensor in trace.graph.tensors}
    names = {n.name for n in nodes}
    macs = {n.name: n.macs for n in trace.graph.nodes}
    return Block(
        module=path,
        source=source.name,
        output=output.name,
        nodes=tuple(n.name for n in nodes),
        macs=sum(macs.get(name, 0) for name in names),
        parameters=tuple(name for name, used in readers.items() if used and used <= names),
    )


def _carries(source: FxNode, output: FxNode, nodes: list[FxNode]) -> bool:
    carried = {source}
    added = False
    for node in nodes:
        operands = [arg for arg in node.args if isinstance(arg, FxNode)]
        first = bool(operands) and operands[0] in carried
        op = op_name(node)
        if op == "add" and len(operands) == 2 and not node.kwargs:
            if (operands[0] in carried) != (operands[1] in carried):
                carried.add(node)
                added = True
        elif first and (op in COPIES or (op == "relu" and op_name(source) == "relu")):
            carried.add(node)
    return added and output in carried


def _is_tensor(node: FxNode) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _shape(node: FxNode) -> tuple[int, ...]:
    return tuple(hint_of(size) for size in node.meta["val"].shape)
