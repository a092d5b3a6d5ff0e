"""Rules for operators that compute: element by element, products, normalizations, reductions, pooling, recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lissom.graph.axes import Fixed, Term, cat, product
from lissom.graph.coupling import SLIDES, Call, Terms, Value, shape_of
from lissom.graph.coupling_moves import unknown

NO_TERMS: tuple[Term, ...] = ()


def elementwise(call: Call) -> Value:
    """Axes are aligned from the right; places that meet are the same channel."""
    return broadcast(call, call.every())


def broadcast(call: Call, sources: Sequence[Terms]) -> Terms:
    rank = max((len(terms) for terms in sources), default=0)
    found: list[Term] = []
    for back in range(rank, 0, -1):
        met = [terms[-back] for terms in sources if len(terms) >= back and terms[-back].size != 1]
        for other in met[1:]:
            call.unify(met[0], other)
        found.append(met[0] if met else Fixed(1))
    return tuple(found)


def linear(call: Call) -> Value:
    source, weight, bias = call.need("input"), call.need("weight"), call.tensor("bias")
    call.unify(source[-1], weight[-1])
    if len(weight) == 1:
        return source[:-1]
    if bias:
        call.unify(weight[0], bias[0])
    return (*source[:-1], weight[0])


def matmul(call: Call) -> Value:
    names = ("self", "other") if "other" in call.given else ("self", "mat2")
    first, second = call.need(names[0]), call.need(names[1])
    return _matmul(call, first, second)


def _matmul(call: Call, first: Terms, second: Terms) -> Terms:
    call.unify(first[-1], second[-2:][0])
    ahead = broadcast(call, [first[:-2], second[:-2]])
    rows = first[-2:-1]
    columns = second[-1:] if len(second) > 1 else NO_TERMS
    return (*ahead, *rows, *columns)


def addmm(call: Call) -> Value:
    names = ("mat1", "mat2") if "mat1" in call.given else ("batch1", "batch2")
    made = _matmul(call, call.need(names[0]), call.need(names[1]))
    return broadcast(call, [made, call.need("self")])


def einsum(call: Call) -> Value:
    equation = cast(str, call.given["equation"]).replace(" ", "")
    if "." in equation or "->" not in equation:
        return unknown(call)
    left, right = equation.split("->")
    seen: dict[str, Term] = {}
    for letters, terms in zip(left.split(","), call.tensors("tensors"), strict=True):
        for letter, term in zip(letters, terms, strict=True):
            if letter in seen:
                call.unify(seen[letter], term)
            elif term.size > 1:
                seen[letter] = term
    return tuple(seen.get(letter, Fixed(1)) for letter in right)


def attention(call: Call) -> Value:
    """softmax(q k' / sqrt(width)) v, heads on the third axis from the right."""
    query, key, value = call.need("query"), call.need("key"), call.need("value")
    rank = len(query)
    heads = query[-3] if rank > 2 else None
    call.unify(query[-1], key[-1])
    if call.given.get("scale") is None:
        call.freeze(query[-1], reason="the scale of the attention follows from its size")
    call.unify(key[-2], value[-2])
    call.freeze(key[-2], reason="softmax runs over it")
    if heads is not None:
        if key[-3].size != heads.size:  # grouped queries
            outer, inner = call.axes.divide(heads, [key[-3].size, heads.size // key[-3].size])
            call.unify(outer, key[-3])
            call.freeze(inner, reason="queries of one group share their keys")
        else:
            call.unify(heads, key[-3])
        call.unify(key[-3], value[-3])
    ahead = broadcast(call, [query[:-3], key[:-3], value[:-3]])
    mask = call.tensor("attn_mask")
    scores = (*ahead, *query[-3:-1], key[-2])
    if mask:
        broadcast(call, [scores, mask])
    return (*ahead, *query[-3:-1], value[-1])


def convolution(call: Call) -> Value:
    """(n, in, *space) with (out, in / groups, *kernel); groups and channels inside a group are atoms apart."""
    name = "input" if "input" in call.given else "self"
    source, weight, bias = call.need(name), call.need("weight"), call.tensor("bias")
    transposed = call.op.startswith("conv_transpose") or bool(call.given.get("transposed"))
    groups = call.number("groups")
    at = len(source) - (len(weight) - 1)
    given, made, inner = source[at], weight[0], weight[1]
    call.freeze(*source[at + 1 :], *weight[2:], reason=SLIDES)
    if groups == 1:
        call.unify(given, inner if not transposed else made)
        out = made if not transposed else inner
    else:
        # Plain: weight (groups x out, in). Transposed: weight (groups x in, out).
        rows, columns = call.axes.divide(made, [groups, made.size // groups])
        source_rows, source_columns = call.axes.divide(given, [groups, given.size // groups])
        call.unify(source_rows, rows)
        if transposed:
            call.unify(source_columns, columns)
            out = product([rows, inner])
        else:
            call.unify(source_columns, inner)
            out = made
    if bias:
        call.unify(out, bias[0])
    return (*source[:at], out, *(Fixed(size) for size in call.shape[at + 1 :]))


def batch_norm(call: Call) -> Value:
    source = call.need("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        terms = call.tensor(name)
        if terms:
            call.unify(source[1], terms[0])
    return source


def layer_norm(call: Call) -> Value:
    source = call.need("input")
    for name in ("weight", "bias"):
        terms = call.tensor(name)
        for a, b in zip(reversed(source), reversed(terms or ()), strict=False):
            call.unify(a, b)
    return source


def group_norm(call: Call) -> Value:
    source = call.need("input")
    groups = call.number("num_groups")
    if groups > 1:
        call.axes.divide(source[1], [groups, source[1].size // groups])
    for name in ("weight", "bias"):
        terms = call.tensor(name)
        if terms:
            call.unify(source[1], terms[0])
    return source


def prelu(call: Call) -> Value:
    source, weight = call.need("self"), call.need("weight")
    if weight and weight[0].size > 1:
        call.unify(source[1], weight[0])
    return source


def weight_norm(call: Call) -> Value:
    vector, gain = call.need("v"), call.need("g")
    at = call.axis("dim", len(vector))
    call.freeze(*(term for i, term in enumerate(vector) if i != at), reason="its norm is taken over it")
    call.unify(vector[at], gain[at])
    return vector


SUMS = frozenset({"sum", "linalg_vector_norm", "count_nonzero"})
"""Reductions that a channel of zeros does not change."""
MEANS = frozenset({"mean", "var", "std", "var_mean", "std_mean"})
"""Reductions over the channels that are there: normalizations written by hand."""


def reduction(call: Call) -> Value:
    source = call.every()[0]
    axes = call.axis_set("dim" if "dim" in call.given else "axis", len(source))
    harmless = call.op in MEANS or (call.op in SUMS and call.given.get("ord", 2) == 2)
    if not harmless:
        call.freeze(*(source[at] for at in axes), reason=f"{call.op} runs over it")
    keep = bool(call.given.get("keepdim"))
    made = [Fixed(1) if at in axes else term for at, term in enumerate(source) if keep or at not in axes]
    several = isinstance(call.node.meta.get("val"), (list, tuple))
    return [tuple(made)] * len(call.node.meta["val"]) if several else tuple(made)


def along(call: Call) -> Value:
    """Operators that mix the places of one axis: cumulative sums, sorting, flipping."""
    source = call.every()[0]
    names = [name for name in ("dim", "dims", "dimension") if name in call.given]
    axes = call.axis_set(names[0], len(source)) if names and source else range(len(source))
    call.freeze(*(source[at] for at in axes), reason=f"{call.op} runs over it")
    if isinstance(call.node.meta.get("val"), (list, tuple)):
        made = cast(list[object], call.node.meta["val"])
        sized = tuple(Fixed(s) if at in axes else t for at, (t, s) in enumerate(zip(source, _sizes(made), strict=True)))
        return [sized] * len(made)
    if len(call.shape) != len(source):
        return tuple(term for at, term in enumerate(source) if at not in axes)
    return tuple(Fixed(size) if at in axes else t for at, (t, size) in enumerate(zip(source, call.shape, strict=True)))


def _sizes(made: Sequence[object]) -> tuple[int, ...]:
    return shape_of(made[0])


def gated(call: Call) -> Value:
    """`glu`: the first half times the sigmoid of the second."""
    source = list(call.need("self"))
    at = call.axis("dim", len(source))
    first, second = call.axes.cut(source[at], [source[at].size // 2] * 2)
    call.unify(first, second)
    source[at] = first
    return tuple(source)


def spatial(call: Call) -> Value:
    """Pooling and resizing: everything past the channels is another image."""
    source = call.every()[0]
    made = call.node.meta.get("val")
    shape = call.shape or _sizes(cast(list[object], made))
    kept = tuple(t if t.size == s and i < 2 else Fixed(s) for i, (t, s) in enumerate(zip(source, shape, strict=True)))
    for at, term in enumerate(source):
        if kept[at] is not term:
            call.freeze(term, reason=SLIDES)
    return [kept] * len(cast(list[object], made)) if isinstance(made, (list, tuple)) else kept


def recurrent(call: Call) -> Value:
    """`lstm`, `gru`, `rnn`: gates stacked over one hidden axis that all layers and directions share."""
    source = call.need("input")
    weights = call.tensors("params")
    layers, both = call.number("num_layers"), bool(call.given["bidirectional"])
    biases = bool(call.given["has_biases"])
    states = call.tensors("hx") if isinstance(call.given.get("hx"), (list, tuple)) else [call.need("hx")]
    directions = 2 if both else 1
    per_cell = (4 if biases else 2) + (len(weights) > layers * directions * (4 if biases else 2))
    if len(weights) != layers * directions * per_cell or per_cell in (3, 5):
        return unknown(call)  # projections
    hidden = weights[1][1]
    feed: Term = source[-1]
    for layer in range(layers):
        for direction in range(directions):
            start = (layer * directions + direction) * per_cell
            into, back, *rest = weights[start : start + per_cell]
            call.unify(into[1], feed)
            call.unify(back[1], hidden)
            for gates in (into[0], back[0], *(bias[0] for bias in rest)):
                rows, columns = call.axes.divide(gates, [gates.size // hidden.size, hidden.size])
                call.freeze(rows, reason="the gates of a recurrent cell")
                call.unify(columns, hidden)
        feed = cat([hidden] * directions)
    for state in states:
        call.unify(state[-1], hidden)
        call.freeze(state[0])
    shapes = [call.fixed()] if call.shape else [tuple(Fixed(s) for s in _sizes([m])) for m in call.node.meta["val"]]
    return [(*terms[:-1], feed if index == 0 else hidden) for index, terms in enumerate(shapes)]
