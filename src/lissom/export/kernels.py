"""From what a runtime says it runs to the operators of the traced graph."""

from __future__ import annotations

from collections.abc import Sequence

from lissom.export.base import Artifact, Kernel, Kind, Ran
from lissom.graph.cost import MACS
from lissom.graph.graph import Graph, Node

ADDS = frozenset({"add"})
POOLS = frozenset({"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean"})
INT8, DYNAMIC, FLOAT, UNKNOWN = "int8", "int8 dynamic", "float32", "unknown"


def match_kernels(artifact: Artifact, kernels: Sequence[Kernel], graph: Graph) -> dict[str, str]:
    """The precision that each product, addition and average of `graph` runs in.

    `graph` is the trace of the very model that was exported. `int8`: integer inputs and weight; `int8 dynamic`:
    integer weight, input rounded by the runtime when it runs; `float32`; `unknown` where the runtime names no kernel
    for the operator, or several that disagree.
    """
    named: dict[str, set[str]] = {}
    owners = _owners(graph)
    foreign = len(artifact.inputs) != len(graph.inputs)
    for kernel in kernels:
        node = graph.by_name.get(kernel.node or owners.get(kernel.source, ""))
        if node is not None and kind_of(node.op) == kernel.kind:
            named.setdefault(node.name, set()).add(kernel.precision)
    found: dict[str, str] = {}
    for node in graph.nodes:
        if kind_of(node.op) is None:
            continue
        precisions = named.get(node.name, set())
        found[node.name] = precisions.pop() if len(precisions) == 1 and not foreign else UNKNOWN
    return found


def product_times(ran: Sequence[Ran], graph: Graph) -> dict[str, float]:
    """Milliseconds of every product of `graph`, with what runs between it and the next one.

    What runs before the first product is in its time. Empty if the runtime does not say of every product which one it
    is: times of some layers would pass for those of all.
    """
    found: dict[str, float] = {}
    before, owner = 0.0, ""
    for one in ran:
        if one.product:
            node = graph.by_name.get(one.node)
            if node is None or node.op not in MACS:
                return {}
            owner = node.name
        if owner:
            found[owner] = found.get(owner, 0.0) + one.ms + before
            before = 0.0
        else:
            before += one.ms
    return found


def kind_of(op: str) -> Kind | None:
    """`product`, `add` or `pool`: what kind of kernel computes an operator; None for operators not followed."""
    if op in MACS:
        return "product"
    if op in ADDS:
        return "add"
    return "pool" if op in POOLS else None


def _owners(graph: Graph) -> dict[str, str]:
    """Parameter name to the one product that reads it, directly or restored from integers."""
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.op in MACS:
            for name in _weights(graph, node):
                readers.setdefault(name, set()).add(node.name)
    return {name: next(iter(nodes)) for name, nodes in readers.items() if len(nodes) == 1}


def _weights(graph: Graph, node: Node) -> list[str]:
    found: list[str] = []
    for operand in node.operands:
        if operand.kind == "parameter":
            found.append(operand.source)
            continue
        before = graph.by_name.get(operand.source)
        if before is not None and before.op.startswith("dequantize"):
            found += [o.source for o in before.operands if o.kind == "parameter" and o.position == 0]
    return found
