"""Which operators have an integer form, where their weights are, and why a single call of one has none.

Of two kinds only the weights are integers (`RESTORED`). Look-ups (embeddings) keep their table as int8 rows, one scale
a row; a row is restored after it was found. Recurrent layers keep each matrix as int8, one scale for every unit of a
gate, restored in front of the layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from lissom.graph.graph import Graph, Node
from lissom.target import OpKind, StoredKind, Target

Kind = OpKind | StoredKind

KINDS: dict[str, Kind] = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "linear": "linear",
    "add": "add",
    "avg_pool2d": "pool",
    "adaptive_avg_pool2d": "pool",
    "conv_transpose1d": "transposed_conv",
    "conv_transpose2d": "transposed_conv",
    "matmul": "matmul",
    "bmm": "matmul",
    "scaled_dot_product_attention": "attention",
    "cat": "concat",
    "embedding": "embedding",
    "lstm": "recurrent",
    "gru": "recurrent",
}

RESTORED: frozenset[Kind] = frozenset({"embedding", "recurrent"})
"""Kinds that compute in float with weights that are stored in integers."""
PRODUCTS: frozenset[Kind] = frozenset({"conv", "linear", "transposed_conv"})
"""Kinds that multiply by integer weights."""
WEIGHTED: frozenset[Kind] = PRODUCTS.union(RESTORED)
"""Kinds that hold weights."""
ACTIVATIONS: frozenset[Kind] = frozenset({"matmul", "attention"})
"""Kinds that multiply activations."""
UNLEARNED: frozenset[Kind] = frozenset({"matmul", "attention", "transposed_conv", "concat"})
"""Kinds that training with rounding does not learn."""
SILENT: frozenset[Kind] = frozenset({"add", "pool", "concat"})
"""Kinds that nobody calls a layer."""
READ: dict[Kind, tuple[int, ...]] = {"add": (0, 1), "matmul": (0, 1), "attention": (0, 1, 2)}
"""Positions of what an integer kernel reads, where it is not the first argument alone."""

WORTH = 1024
"""Values from which a weight that is restored is stored in fewer bits: for fewer, the conversion takes the room that it
saves."""


def label(node: Node) -> str:
    """A name a user recognises: the layer, with the operator where the layer is more than that operator."""
    kind = KINDS.get(node.op)
    if node.layer and kind in PRODUCTS:
        return node.layer
    return f"{node.layer}/{node.name}" if node.layer else node.name


def offered(target: Target, computed: Collection[OpKind]) -> frozenset[Kind]:
    """Kinds that the target computes in integers, as given, and those that it restores weights of."""
    return frozenset(computed) | (RESTORED & frozenset(target.weights.ops))


def weights_of(graph: Graph, node: Node) -> tuple[str, ...]:
    """Parameters that an operator of some kind in `WEIGHTED` multiplies by, or finds rows in."""
    kind = KINDS.get(node.op)
    if kind == "recurrent":
        held = (o.source for o in node.operands if o.position == 2 and o.kind == "parameter")
        return tuple(name for name in held if len(graph.tensor_by_name[name].shape) == 2)
    if kind not in WEIGHTED:
        return ()
    weight = node.parameter(0 if kind == "embedding" else 1)
    return (weight,) if weight else ()


def axis_of(graph: Graph, node: Node) -> int:
    """The axis of a product's weight that one scale belongs to a slice of: its outputs.

    A transposed convolution has them on axis 1; where every input channel is a group of its own, on axis 0. With other
    groups a scale is that of one output in each group.
    """
    if KINDS[node.op] != "transposed_conv":
        return 0
    groups = node.constants.get("groups", 1.0)
    return 0 if groups > 1 and groups == graph.tensor_by_name[weights_of(graph, node)[0]].shape[0] else 1


def read_by(node: Node) -> list[tuple[int, str]]:
    """Position and name of every value that an integer kernel of the operator reads."""
    kind = KINDS[node.op]
    if kind in RESTORED:
        return []
    if kind == "concat":
        return [(0, value) for value in node.values]
    found = [(position, node.value(position)) for position in READ.get(kind, (0,))]
    return [(position, value) for position, value in found if value is not None]


def is_plain(node: Node) -> bool:
    """Whether a transposed convolution is one of images without groups."""
    return node.op == "conv_transpose2d" and node.constants.get("groups", 1.0) == 1.0


def refuse_multiplied(graph: Graph, node: Node) -> str | None:
    """Why a product of activations stays in float."""
    if node.op == "scaled_dot_product_attention":
        query, key = (graph.shape_of(node.value(place) or "") if node.value(place) else () for place in (0, 1))
        if node.constants.get("is_causal") and "N" in (query[-2:-1] + key[-2:-1]):
            return "its mask has no fixed length"
        if node.constants.get("dropout_p"):
            return "it drops attention weights at random"
    operands = read_by(node)
    if len(operands) < len(READ[KINDS[node.op]]):
        return "one operand is stored: only a linear layer multiplies by a weight"
    if any(len(graph.shape_of(value)) < 2 for _, value in operands):
        return "one operand is a vector"
    kinds = {graph.dtype_of(value) for _, value in operands}
    return None if kinds == {"float32"} else f"its operands are {' and '.join(sorted(kinds))}, not float32"


def refuse_concat(graph: Graph, node: Node) -> str | None:
    """Why a concatenation stays in float, whoever reads it."""
    stored = [operand.source for operand in node.operands if operand.kind == "parameter"]
    if stored:
        return f"one operand is stored ({stored[0]})"
    kinds = {graph.dtype_of(value) for value in node.values}
    return None if kinds == {"float32"} else "its operands have different types"


def refuse_restored(graph: Graph, node: Node) -> str | None:
    """Why the weights of a look-up or recurrent layer stay in float."""
    held = weights_of(graph, node)
    if not held:
        return "its weight is computed, not stored"
    if node.op in ("lstm", "gru") and not node.target.endswith(".input"):
        return "sequences that are packed stay in float: give the layer a padded tensor"
    tensors = [graph.tensor_by_name[name] for name in held]
    if any(tensor.dtype != "float32" for tensor in tensors):
        return f"its weight is {tensors[0].dtype}, not float32"
    if max(math.prod(tensor.shape) for tensor in tensors) < WORTH:
        return f"its weights hold fewer than {WORTH} values, and restoring them takes the room that integers save"
    return None


def refuse_shared(graph: Graph, node: Node, refused: Collection[str]) -> str | None:
    """A weight is rounded for all its readers, so all of them must have been chosen, and read it in one way."""
    for weight in weights_of(graph, node):
        for reader in graph.tensor_by_name[weight].used_by:
            other = graph.by_name[reader]
            if reader in refused or weight not in weights_of(graph, other):
                return f"its weight is shared with {label(other)}, which stays in float"
            if KINDS[other.op] != KINDS[node.op]:
                return f"its weight is shared with {label(other)}, which reads it in another way"
    return None
