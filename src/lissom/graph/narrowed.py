"""Cost of a model after a cut, from sizes alone: MACs, parameters and bytes as functions of channel counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch.fx import Node as FxNode

from lissom.graph.axes import Atom, Axes, Fixed, Term
from lissom.graph.channels import Channels, listed_names
from lissom.graph.coupling import Call, Terms
from lissom.graph.describe import op_name
from lissom.graph.parts import ALWAYS, Needed, needed, share
from lissom.graph.resize import Kept
from lissom.graph.trace import Trace

Counts = Mapping[Atom, int]
"""Atom to how many of its channels stay; what is not named stays whole."""
NOTHING: Kept = {}


@dataclass(frozen=True, eq=False)
class _Operator:
    """MACs in proportion to the sum of products of these axes."""

    node: str
    macs: int
    products: tuple[Terms, ...]
    whole: int
    needed: Needed

    def after(self, axes: Axes, counts: dict[Atom, int], kept: Kept) -> float:
        macs = self.macs * _volume(axes, self.products, counts) / self.whole
        return macs if self.needed is ALWAYS else macs * share(self.needed, counts, kept)


@dataclass(frozen=True, eq=False)
class _Tensor:
    name: str
    terms: Terms
    width: int
    """Bytes of an element."""
    trainable: bool
    needed: Needed

    def after(self, axes: Axes, counts: dict[Atom, int], kept: Kept) -> float:
        numel = _volume(axes, (self.terms,), counts)
        return numel if self.needed is ALWAYS else numel * share(self.needed, counts, kept)


@dataclass(frozen=True, eq=False)
class Narrowed:
    """Costs of one model at other widths.

    Where channels are whole modules (experts), it may matter which of them stay: `kept` says so. What is not named
    there counts as the mean over the modules.
    """

    axes: Axes
    operators: tuple[_Operator, ...]
    tensors: tuple[_Tensor, ...]
    modules: frozenset[Atom]
    """Channels that are modules."""

    def macs(self, counts: Counts, kept: Kept = NOTHING) -> int:
        found = dict(counts)
        return round(sum(one.after(self.axes, found, kept) for one in self.operators))

    def macs_by_node(self, counts: Counts, kept: Kept = NOTHING) -> dict[str, int]:
        found = dict(counts)
        return {one.node: round(one.after(self.axes, found, kept)) for one in self.operators}

    def parameters(self, counts: Counts, kept: Kept = NOTHING) -> int:
        found = dict(counts)
        return round(sum(one.after(self.axes, found, kept) for one in self.tensors if one.trainable))

    def bytes(self, counts: Counts, kept: Kept = NOTHING) -> int:
        found = dict(counts)
        return round(sum(one.after(self.axes, found, kept) * one.width for one in self.tensors))

    def gone(self, kept: Kept) -> Mapping[str, tuple[Atom, ...]]:
        """Parameters of modules that are left out, to the channels that those modules are."""
        return {
            one.name: tuple(dict.fromkeys(atom for way in one.needed for atom, _ in way))
            for one in self.tensors
            if one.needed is not ALWAYS and share(one.needed, {}, kept) == 0
        }


def narrowed(trace: Trace, channels: Channels) -> Narrowed:
    values = channels.on(trace.module)
    macs = {node.name: node.macs for node in trace.graph.nodes if node.macs}
    ways = needed(trace.module, channels.axes, values)
    operators: list[_Operator] = []
    for node in trace.module.graph.nodes:
        if node.name not in macs:
            continue
        products = tuple(_looked(channels.axes, p) for p in _products(Call.of(channels.axes, node, values)))
        whole = _volume(channels.axes, products, {})
        operators.append(_Operator(node.name, macs[node.name], products, whole, ways.get(node, ALWAYS)))
    by_tensor = _ways_by_tensor(trace, ways)
    tensors = tuple(
        _Tensor(
            t.name,
            _looked(channels.axes, channels.parameters.get(t.name, tuple(map(Fixed, t.shape)))),
            t.bytes // max(1, prod(t.shape)),
            t.trainable,
            by_tensor.get(t.name, ALWAYS),
        )
        for t in trace.graph.tensors
    )
    modules = frozenset(atom for one in ways.values() for way in one for atom, _ in way)
    return Narrowed(channels.axes, tuple(operators), tensors, modules)


def _ways_by_tensor(trace: Trace, ways: Mapping[FxNode, Needed]) -> dict[str, Needed]:
    """When each tensor is still read, by its listed name."""
    names = listed_names(trace)
    found: dict[str, Needed] = {}
    for node in trace.module.graph.nodes:
        if node.op == "get_attr" and (name := names.get(str(node.target))) is not None:
            found[name] = found.get(name, frozenset()) | ways.get(node, ALWAYS)
    return {name: own for name, own in found.items() if not own & ALWAYS}


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
