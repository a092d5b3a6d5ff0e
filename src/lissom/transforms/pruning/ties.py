"""Groups that the user's own code gives one size: cut to different sizes, only the exported graph could hold them.

Queries, keys and values are viewed with one `self.head_dim`; `chunk(2)` makes halves. Such groups keep their own
channels, but the same number of them, so that the result can be of the user's own class. What the code computes from
the shape of a tensor (`C // self.num_heads`) is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.graph.axes import Atom, Axes, Cat, Fixed, Prod, Term
from lissom.graph.channels import Channels
from lissom.graph.coupling import Call, Terms
from lissom.graph.trace import Trace
from lissom.transforms.pruning.own_class import holding, stack_of

Ties = tuple[tuple[str, ...], ...]
"""Names of groups of one size that keep equally many channels."""


def ties_of(model: nn.Module, trace: Trace, channels: Channels) -> Ties:
    """No two ties share a group. An exported graph has no code of its own, and so none."""
    if isinstance(model, GraphModule):
        return ()
    values = {n: channels.values[n.name] for n in trace.module.graph.nodes if n.name in channels.values}
    found = _Tied(channels.axes)
    by_attribute: dict[tuple[str, str], Term] = {}
    for node in trace.module.graph.nodes:
        if node.op != "call_function" or node not in values:
            continue
        call = Call.of(channels.axes, node, values)
        for first, second in pairwise(_pieces(call)):
            found.tie(first, second)
        for size, term in _constants(call):
            keys = () if isinstance(channels.axes.look(term), Fixed) else _holders(model, node, size)
            for key in keys:
                found.tie(by_attribute.setdefault(key, term), term)
    names = {group.atom: group.name for group in channels.groups if group.reason is None and group.size > 1}
    sets = ([names[atom] for atom in atoms if atom in names] for atoms in found.sets())
    return tuple(tuple(names) for names in sets if len(names) > 1)


def tied(counts: Mapping[str, int], ties: Ties) -> dict[str, int]:
    """The mean of each tie for all its groups, rounded down. Groups that are not counted are not waited for."""
    found = dict(counts)
    for tie in ties:
        names = [name for name in tie if name in found]
        if names:
            found.update(dict.fromkeys(names, sum(found[name] for name in names) // len(names)))
    return found


def _pieces(call: Call) -> list[Term]:
    """The pieces of a split into equal parts."""
    equal = isinstance(call.given.get("split_size"), int) or any(n in call.given for n in ("chunks", "sections"))
    made = call.values[call.node]
    if not equal or not isinstance(made, list) or not made:
        return []
    at = call.axis("dim", len(made[0]))
    return [terms[at] for terms in made if terms[at].size == made[0][at].size]


def _constants(call: Call) -> Iterator[tuple[int, Term]]:
    """The sizes that a call names, each with the axis that has it."""
    made = call.values[call.node]
    if isinstance(made, tuple):
        for name in ("size", "shape", "sizes", "repeats"):
            given = call.given.get(name)
            if isinstance(given, (list, tuple)):
                start = call.axis("dim", len(call.every()[0])) if name == "sizes" else 0
                yield from _known(cast(Sequence[object], given), made[start:])
    for name, tensor, axis in (("groups", "weight", 0), ("num_groups", "input", 1)):
        groups, terms = call.given.get(name), call.tensor(tensor)
        if isinstance(groups, int) and groups > 1 and terms:
            term = terms[axis]
            yield groups, call.axes.divide(term, [groups, term.size // groups])[0]


def _known(given: Sequence[object], terms: Terms) -> Iterator[tuple[int, Term]]:
    for size, term in zip(given, terms, strict=False):
        if isinstance(size, int) and size == term.size:
            yield size, term


def _holders(model: nn.Module, node: FxNode, size: int) -> list[tuple[str, str]]:
    """Attributes that hold a constant, of the innermost module around the call that has one."""
    for path in stack_of(node):
        names = holding(model.get_submodule(path), size)
        if names:
            return [(path, name) for name in names]
    return []


class _Tied:
    """Atoms in disjoint sets."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._above: dict[Atom, Atom] = {}

    def tie(self, first: Term, second: Term) -> None:
        """State that both have one size, wherever it is changed. Different forms can have it in many ways: left."""
        first, second = self._axes.look(first), self._axes.look(second)
        if first is second or first.size != second.size:
            return
        if isinstance(first, Atom) and isinstance(second, Atom):
            self._above[self._root(first)] = self._root(second)
            return
        for kind in (Prod, Cat):
            if isinstance(first, kind) and isinstance(second, kind):
                ours, others = _inside(first), _inside(second)
                if [term.size for term in ours] == [term.size for term in others]:
                    for one, other in zip(ours, others, strict=True):
                        self.tie(one, other)

    def _root(self, atom: Atom) -> Atom:
        above = self._above.setdefault(atom, atom)
        while above is not self._above[above]:
            above = self._above[above]
        self._above[atom] = above
        return above

    def sets(self) -> list[list[Atom]]:
        found: dict[Atom, list[Atom]] = {}
        for atom in list(self._above):
            found.setdefault(self._root(atom), []).append(atom)
        return list(found.values())


def _inside(term: Cat | Prod) -> tuple[Term, ...]:
    return term.parts if isinstance(term, Cat) else term.factors
