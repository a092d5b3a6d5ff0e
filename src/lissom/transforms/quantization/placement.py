"""Where quantizers go: a pure function of the graph and the target's table.

A *point* is a value of the graph with the readers that will see its rounded form. Its range comes from its *root*:
operators that only move or select values (reshape, slice, zero padding, max pooling) keep the grid of what they
move, so everything moved from one root shares one scale and costs no second rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lissom.graph.graph import Graph, Node
from lissom.target import Integers, Target
from lissom.transforms.base import Skip
from lissom.transforms.quantization.concat import Family, families
from lissom.transforms.quantization.operators import (
    ACTIVATIONS,
    KINDS,
    PRODUCTS,
    RESTORED,
    SILENT,
    Kind,
    label,
    read_by,
    refuse_concat,
    refuse_multiplied,
    refuse_restored,
    refuse_shared,
)

_MOVES = """
view reshape flatten unflatten transpose permute slice select squeeze unsqueeze expand contiguous alias clone
detach dropout feature_dropout pad max_pool1d max_pool2d max_pool3d getitem chunk split split_with_sizes
unbind
"""
MOVES = frozenset(_MOVES.split())
"""Operators whose output holds only values of their first input (and, for zero padding, zeros)."""

OUTPUT = "output"
"""Reader that stands for the model's output."""

EXCLUDED = "excluded by the recipe"

OVER_FEATURES = frozenset({"layer_norm", "rms_norm"})
NORMALIZED = "a normalization over features reads this sum: a few outweigh the others, which one scale would lose"

UNSUPPORTED = {
    "einsum": "einsum stays in float: write the product as matmul",
    "rnn_tanh": "plain recurrent layers stay in float",
    "rnn_relu": "plain recurrent layers stay in float",
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
    """Every layer with parameters or products, and the float operators that some target could run in integers."""
    layers = {layer.node for layer in graph.layers}
    return [n for n in graph.nodes if n.name in layers or (n.op in KINDS and n.dtype.startswith("float"))]


def partition(
    graph: Graph,
    ops: Collection[Kind],
    target: Target,
    excluded: Collection[str],
    barred: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Node], list[Skip]]:
    """Candidates that are quantized, and the others with the reason.

    `excluded` are names of nodes; `barred` ones stay in float for the reason that is given.
    """
    found = candidates(graph)
    reasons = {node.name: _refuse(graph, node, ops, target, excluded, barred) for node in found}
    changed = True
    while changed:  # one refusal can take away the reason to round a weight that others share
        changed = False
        refused = {name for name, reason in reasons.items() if reason is not None}
        for node in found:
            if node.name in refused:
                continue
            reason = refuse_shared(graph, node, refused) or _refuse_unread(graph, node, reasons)
            if reason is not None:
                reasons[node.name], changed = reason, True
    chosen = [node for node in found if reasons[node.name] is None]
    skipped = [Skip(layer=label(node), reason=reason) for node in found if (reason := reasons[node.name])]
    return chosen, list(dict.fromkeys(skipped))


def names_of(node: Node) -> tuple[str, ...]:
    """What a pattern may call an operator: its layer, its own name, or the label that plans show."""
    return tuple(dict.fromkeys(name for name in (node.layer, node.name, label(node)) if name))


def _refuse(
    graph: Graph,
    node: Node,
    ops: Collection[Kind],
    target: Target,
    excluded: Collection[str],
    barred: Mapping[str, str],
) -> str | None:
    """Why not; None to quantize, an empty string for an operator nobody would call a layer."""
    kind = KINDS.get(node.op)
    if node.name in excluded:
        return EXCLUDED
    if kind is None:
        return UNSUPPORTED.get(node.op, f"{node.op} has no integer form here")
    if kind not in ops:
        if kind in SILENT and not any(o.kind == "parameter" for o in node.operands):
            return ""
        return f"{target.title} has no integer kernel for {node.op} in this mode"
    if node.name in barred:
        return barred[node.name]
    if kind in RESTORED:
        return refuse_restored(graph, node)
    if node.dtype != "float32":
        return f"it computes in {node.dtype}, not float32"
    return _refuse_call(graph, node, kind)


def _refuse_call(graph: Graph, node: Node, kind: Kind) -> str | None:
    """Why this call of an operator that has an integer form stays in float."""
    if kind in PRODUCTS:
        if node.value(0) is None:
            return "its input is stored, not computed"
        return None if node.parameter(1) else "its weight is computed, not stored"
    if kind in ACTIVATIONS:
        return refuse_multiplied(graph, node)
    if kind == "concat":
        return refuse_concat(graph, node)
    return _refuse_add(graph, node) if kind == "add" else None


def _refuse_unread(graph: Graph, node: Node, reasons: Mapping[str, str | None]) -> str | None:
    """A concatenation in integers pays where an integer kernel reads it."""
    if KINDS[node.op] != "concat":
        return None
    waiting = [node.name]
    while waiting:
        value = waiting.pop()
        for name in graph.consumers[value]:
            if moved_from(graph, name) == value:
                waiting.append(name)
            elif reasons.get(name, "") is None and any(given == value for _, given in read_by(graph.by_name[name])):
                return None
    return "nothing that reads it computes in integers"


def _refuse_add(graph: Graph, node: Node) -> str | None:
    left, right = node.value(0), node.value(1)
    if left is None or right is None:
        stored = node.parameter(0) or node.parameter(1)
        return f"one operand is stored ({stored})" if stored else "one operand is a number"
    if left in graph.inputs and right in graph.inputs:
        return "both operands are inputs of the model: rounding them costs more than adding them"
    if {graph.dtype_of(left), graph.dtype_of(right)} != {"float32"}:
        return "its operands have different types"
    if {graph.shape_of(left), graph.shape_of(right)} != {node.shape}:
        return "its two inputs have different shapes (broadcast)"
    alpha = node.constants.get("alpha", 1.0)
    if alpha != 1.0:
        return f"it multiplies an operand by {alpha:g}: integer kernels only add"
    return NORMALIZED if _is_normalized(graph, node.name) else None


def _is_normalized(graph: Graph, value: str) -> bool:
    """Whether a normalization over features reads it, at once or after more sums."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        for name in graph.consumers[value]:
            op = graph.by_name[name].op
            if op in OVER_FEATURES:
                return True
            if op == "add" or moved_from(graph, name) == value:
                waiting.append(name)
    return False


def moved_from(graph: Graph, value: str) -> str | None:
    """The value that `value` holds the values of, where its operator only moves them."""
    node = graph.by_name.get(value)
    if node is None or node.op not in MOVES or not node.values:
        return None
    source = node.values[0]
    if node.op == "pad" and node.constants.get("value", 0.0) != 0.0:
        return None
    if node.op == "getitem" and moved_from(graph, source) is None:
        return None  # one of several results (of an LSTM, a top-k): computed, not moved
    return source


def root_of(graph: Graph, value: str) -> str:
    """The value that `value` was moved from."""
    return path_to_root(graph, value)[-1]


def path_to_root(graph: Graph, value: str) -> list[str]:
    """`value` and what it was moved from, root last."""
    path = [value]
    while (before := moved_from(graph, path[-1])) is not None:
        path.append(before)
    return path


def joined(graph: Graph, chosen: Iterable[Node], target: Target) -> list[Family]:
    """Values that the target wants on one grid."""
    return [] if target.integers.joins == "any" else families(graph, chosen, root_of)


def points(graph: Graph, chosen: Iterable[Node], target: Target) -> list[Point]:
    """Every value to round for the chosen operators, in graph order; joined values have one root."""
    table = target.integers
    found: dict[str, Point] = {}
    chosen = list(chosen)
    shared = {member: one.name for one in joined(graph, chosen, target) for member in one.members}
    names = {node.name for node in chosen}
    rounded: list[tuple[str, Reader]] = []
    for node in chosen:
        absorbed = _absorbed(graph, node, names) if table.absorbs_add else None
        for position, value in read_by(node):
            if position != absorbed:
                rounded += _for_input(graph, value, Reader(node.name, position), table)
    for node in chosen:
        if KINDS[node.op] in table.needs_output:
            value = _end_of_fusion(graph, node, table.fused if KINDS[node.op] != "concat" else ())
            rounded += [(value, reader) for reader in _readers(graph, value)]
    for value, reader in rounded:
        root = root_of(graph, value)
        point = found.setdefault(value, Point(value, shared.get(root, root)))
        if reader not in point.readers:
            point.readers.append(reader)
    order = {name: i for i, name in enumerate((*graph.inputs, *graph.by_name))}
    return sorted(found.values(), key=lambda point: order[point.value])


def _for_input(graph: Graph, value: str, reader: Reader, table: Integers) -> list[tuple[str, Reader]]:
    """What to round, and for whom, so that `reader` gets integers."""
    path = path_to_root(graph, value)
    if table.at_source:
        return [(path[-1], Reader(path[-2], 0) if len(path) > 1 else reader)]
    found = [(value, reader)]
    for moved, before in itertools.pairwise(path):
        if graph.by_name[moved].op not in table.moves:
            break
        found.append((before, Reader(moved, 0)))
    return found


def _absorbed(graph: Graph, node: Node, chosen: Collection[str]) -> int | None:
    """The operand of an addition that an integer product hands over unrounded, if any."""
    if KINDS[node.op] != "add" or node.value(0) == node.value(1):
        return None
    for position in (0, 1):
        value = node.value(position)
        before = graph.by_name.get(value or "")
        if before is None or before.name not in chosen or KINDS[before.op] not in ("conv", "linear"):
            continue
        if graph.consumers[before.name] == (node.name,) and before.name not in graph.outputs:
            return position
    return None


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
