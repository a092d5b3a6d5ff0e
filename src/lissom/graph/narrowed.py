"""Cost of a model after a cut, from sizes alone: MACs, parameters and bytes as functions of channel counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from lissom.graph.axes import Atom, Axes, Fixed, Term
from lissom.graph.channels import Channels
from lissom.graph.coupling import Call, Terms
from lissom.graph.describe import op_name
from lissom.graph.trace import Trace

Counts = Mapping[Atom, int]
"""Atom to how many of its channels stay; what is not named stays whole."""


@dataclass(frozen=True, eq=False)
class _Operator:
    """MACs in proportion to the sum of products of these axes."""

    node: str
    macs: int
    products: tuple[Terms, ...]
    whole: int

    def after(self, axes: Axes, counts: dict[Atom, int]) -> float:
        return self.macs * _volume(axes, self.products, counts) / self.whole


@dataclass(frozen=True, eq=False)
class Narrowed:
    """Costs of one model at other widths."""

    axes: Axes
    operators: tuple[_Operator, ...]
    tensors: tuple[tuple[Terms, int, bool], ...]
    """Axes, bytes of an element, whether trainable."""

    def macs(self, counts: Counts) -> int:
        found = dict(counts)
        return round(sum(one.after(self.axes, found) for one in self.operators))

    def macs_by_node(self, counts: Counts) -> dict[str, int]:
        found = dict(counts)
        return {one.node: round(one.after(self.axes, found)) for one in self.operators}

    def parameters(self, counts: Counts) -> int:
        return round(sum(self._numel(terms, counts) for terms, _, trainable in self.tensors if trainable))

    def bytes(self, counts: Counts) -> int:
        return round(sum(self._numel(terms, counts) * width for terms, width, _ in self.tensors))

    def _numel(self, terms: Terms, counts: Counts) -> int:
        return _volume(self.axes, (terms,), dict(counts))


def narrowed(trace: Trace, channels: Channels) -> Narrowed:
    values = channels.on(trace.module)
    macs = {node.name: node.macs for node in trace.graph.nodes if node.macs}
    operators: list[_Operator] = []
    for node in trace.module.graph.nodes:
        if node.name not in macs:
            continue
        products = tuple(_looked(channels.axes, p) for p in _products(Call.of(channels.axes, node, values)))
        whole = _volume(channels.axes, products, {})
        operators.append(_Operator(node.name, macs[node.name], products, whole))
    tensors = tuple(
        (
            _looked(channels.axes, channels.parameters.get(t.name, tuple(map(Fixed, t.shape)))),
            t.bytes // max(1, prod(t.shape)),
            t.trainable,
        )
        for t in trace.graph.tensors
    )
    return Narrowed(channels.axes, tuple(operators), tensors)


def _looked(axes: Axes, terms: Terms) -> Terms:
    """Without the axes that nothing can be cut from but their sizes."""
    return tuple(axes.look(term) for term in terms)


def _volume(axes: Axes, products: Sequence[Terms], counts: dict[Atom, int]) -> int:
    return sum(prod(axes.size_after(term, counts) for term in terms) for terms in products)


def _products(call: Call) -> list[Terms]:
    op = op_name(call.node)
    made = call.values[call.node]
    out: Terms = made if isinstance(made, tuple) else made[0]
    if op.startswith("conv"):
        return [call.need("weight")]
    if op == "linear":
        return [(*call.need("input")[:-1], *call.need("weight"))]
    if op in ("matmul", "mm", "bmm"):
        return [(*out, call.every()[0][-1])]
    if op in ("addmm", "baddbmm"):
        first = call.need("mat1" if "mat1" in call.given else "batch1")
        return [(*out, first[-1])]
    if op == "scaled_dot_product_attention":
        query, key, value = call.need("query"), call.need("key"), call.need("value")
        return [(*query[:-1], key[-2], query[-1]), (*query[:-1], key[-2], value[-1])]
    if op in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return [terms for terms in call.tensors("params") if len(terms) == 2]
    if op == "einsum":
        equation = str(call.given["equation"]).replace(" ", "").split("->")[0].split(",")
        letters: dict[str, Term] = {}
        for names, terms in zip(equation, call.tensors("tensors"), strict=False):
            letters.update(zip(names, terms, strict=False))
        return [tuple(letters.values())]
    return [out]
