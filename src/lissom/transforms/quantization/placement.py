"""Where quantizers go: a pure function of the graph and the target's table.

A *point* is a value of the graph with the readers that will see its rounded form. Its range comes from its *root*:
operators that only move or select values (reshape, slice, zero padding, max pooling) keep the grid of what they
move, so everything moved from one root shares one scale and costs no second rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from lissom.graph.graph import Graph, Node
from lissom.target import OpKind, Target
from lissom.transforms.base import Skip

KINDS: dict[str, OpKind] = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "linear": "linear",
    "add": "add",
    "avg_pool2d": "pool",
    "adaptive_avg_pool2d": "pool",
}

MOVES = frozenset(
    """view reshape flatten unflatten transpose permute slice select squeeze unsqueeze expand contiguous alias clone
    detach dropout feature_dropout pad max_pool1d max_pool2d max_pool3d getitem chunk split split_with_sizes
    unbind""".split()
)
"""Operators whose output holds only values of their first input (and, for zero padding, zeros)."""

OUTPUT = "output"
"""Reader that stands for the model's output."""

UNSUPPORTED = {
    "embedding": "an embedding is a look-up: weight-only quantization, not part of this transform",
    "scaled_dot_product_attention": "attention products stay in float",
    "matmul": "a product of two activations stays in float",
    "bmm": "a product of two activations stays in float",
    "lstm": "recurrent layers stay in float",
    "gru": "recurrent layers stay in float",
    "batch_norm": "a normalization that was not folded stays in float; put Fold before Quantize",
    "layer_norm": "layer normalization stays in float: its range is narrow and integers gain nothing",
    "group_norm": "group normalization stays in float",
    "rms_norm": "normalization stays in float",
}


@dataclass(frozen=True)
class Reader:
    """An argument of an operator, or the model's output."""

    node: str
    position: int


@dataclass
class Point:
    """A value to round, the value whose range it has, and who reads the rounded form."""

    value: str
    root: str
    readers: list[Reader] = field(default_factory=list[Reader])


def candidates(graph: Graph) -> list[Node]:
    """Operators that some target could run in integers, and every layer with parameters or products."""
    layers = {layer.node for layer in graph.layers}
    return [node for node in graph.nodes if node.name in layers or node.op in KINDS]


def partition(
    graph: Graph, ops: Collection[OpKind], target: Target, excluded: Collection[str]
) -> tuple[list[Node], list[Skip]]:
    """Candidates that are quantized, and the others with the reason."""
    chosen: list[Node] = []
    skipped: list[Skip] = []
    for node in candidates(graph):
        reason = _refuse(graph, node, ops, target, excluded)
        if reason is None:
            chosen.append(node)
        elif reason:
            skipped.append(Skip(layer=label(node), reason=reason))
    return chosen, skipped


def label(node: Node) -> str:
    """A name a user recognises: the layer, with the operator where the layer is more than that operator."""
    kind = KINDS.get(node.op)
    if node.layer and kind in ("conv", "linear"):
        return node.layer
    return f"{node.layer}/{node.name}" if node.layer else node.name


def _refuse(
    graph: Graph, node: Node, ops: Collection[OpKind], target: Target, excluded: Collection[str]
) -> str | None:
    """Why not; None to quantize, an empty string for an operator nobody would call a layer."""
    kind = KINDS.get(node.op)
    if node.layer in excluded or node.name in excluded:
        return "excluded by the recipe"
    if kind is None:
        return UNSUPPORTED.get(node.op, f"{node.op} has no integer form here")
    if kind not in ops:
        if kind in ("add", "pool"):
            return ""
        return f"{target.title} has no integer kernel for {node.op} in this mode"
    if node.dtype != "float32":
        return f"it computes in {node.dtype}, not float32" if kind in ("conv", "linear") else ""
    if kind in ("conv", "linear"):
        if node.value(0) is None or node.parameter(1) is None:
            return "its weight is computed, not stored"
        return None
    if kind == "add":
        return _refuse_add(graph, node)
    return None


def _refuse_add(graph: Graph, node: Node) -> str | None:
    left, right = node.value(0), node.value(1)
    if left is None or right is None:
        return ""
    if left not in graph.by_name and right not in graph.by_name:
        return ""
    shapes = {graph.by_name[v].shape for v in (left, right) if v in graph.by_name}
    return None if shapes == {node.shape} else "its two inputs have different shapes (broadcast)"


def root_of(graph: Graph, value: str) -> str:
    """The value that `value` was moved from."""
    while value in graph.by_name and graph.by_name[value].op in MOVES:
        before = graph.by_name[value].values
        if not before:
            break
        value = before[0]
    return value


def path_to_root(graph: Graph, value: str) -> list[str]:
    """`value` and what it was moved from, root last."""
    path = [value]
    while path[-1] in graph.by_name and graph.by_name[path[-1]].op in MOVES:
        before = graph.by_name[path[-1]].values
        if not before:
            break
        path.append(before[0])
    return path


def points(graph: Graph, chosen: Iterable[Node], target: Target) -> list[Point]:
    """Every value to round for the chosen operators, in graph order."""
    table = target.integers
    found: dict[str, Point] = {}

    def add(value: str, reader: Reader) -> None:
        point = found.setdefault(value, Point(value, root_of(graph, value)))
        if reader not in point.readers:
            point.readers.append(reader)

    chosen = list(chosen)
    for node in chosen:
        for position in (0, 1) if KINDS[node.op] == "add" else (0,):
            value = node.value(position)
            if value is None:
                continue
            path = path_to_root(graph, value)
            if not table.at_source:
                add(value, Reader(node.name, position))
                for moved, before in zip(path, path[1:], strict=False):
                    if graph.by_name[moved].op not in table.moves:
                        break
                    add(before, Reader(moved, 0))
                continue
            user = path[-2] if len(path) > 1 else node.name
            add(path[-1], Reader(user, 0 if len(path) > 1 else position))
    for node in chosen:
        if KINDS[node.op] in table.needs_output:
            value = _end_of_fusion(graph, node, table.fused)
            for reader in _readers(graph, value):
                add(value, reader)
    order = {name: i for i, name in enumerate((*graph.inputs, *graph.by_name))}
    return sorted(found.values(), key=lambda point: order[point.value])


def _end_of_fusion(graph: Graph, node: Node, fused: Collection[str]) -> str:
    """The last value that the integer kernel of `node` produces itself."""
    value = node.name
    while value not in graph.outputs and len(graph.consumers[value]) == 1:
        follower = graph.by_name[graph.consumers[value][0]]
        if not _is_fused(follower, fused):
            break
        value = follower.name
    return value


def _is_fused(node: Node, fused: Collection[str]) -> bool:
    # hardtanh(0, 6) is how torch writes ReLU6.
    return node.op in fused or (node.op == "hardtanh" and "relu6" in fused)


def _readers(graph: Graph, value: str) -> list[Reader]:
    readers = [
        Reader(user, operand.position)
        for user in graph.consumers[value]
        for operand in graph.by_name[user].operands
        if operand.kind == "value" and operand.source == value
    ]
    if value in graph.outputs:
        readers.append(Reader(OUTPUT, graph.outputs.index(value)))
    return readers
