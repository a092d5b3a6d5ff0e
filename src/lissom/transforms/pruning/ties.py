"""Groups that the user's own code ties together: cut apart, only the exported graph could hold them.

Queries, keys and values are viewed with one `self.head_dim`; `chunk(2)` makes halves; `C // self.num_heads` follows
from what a module reads. Such groups keep channels of their own, but the same share of them, so that the result can be
of the user's own class. Tied groups that differ in size do so by a factor: a share that both can keep is one of the
greatest common divisor of their sizes.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import ceil, gcd, lcm
from typing import cast

from torch import nn
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.functional.selection import SLACK, rounded
from lissom.graph.axes import Atom, Axes, Cat, Fixed, Prod, Term
from lissom.graph.channels import Channels
from lissom.graph.coupling import Call, Terms
from lissom.graph.describe import stack_of
from lissom.graph.trace import Trace
from lissom.transforms.pruning.own_class import holding


@dataclass(frozen=True)
class Ties:
    """By name of the group. No two of `same` share a group."""

    same: tuple[tuple[str, ...], ...] = ()
    """Groups that keep the same share of their channels."""
    whole: frozenset[str] = frozenset()
    """Groups that stay as they are: the code divides by their size."""

    def among(self, names: Container[str]) -> Iterator[tuple[str, ...]]:
        """The ties of these groups; one that is alone in its tie is free."""
        for tie in self.same:
            held = tuple(name for name in tie if name in names)
            if len(held) > 1:
                yield held

    def tied(
        self,
        counts: Mapping[str, int],
        sizes: Mapping[str, int],
        floors: Mapping[str, int],
        multiples: Mapping[str, int],
    ) -> dict[str, int]:
        """The mean share for all groups of a tie, rounded so that each keeps its floor and a multiple, or is whole.

        Groups that are not counted are not waited for.
        """
        found = dict(counts)
        for tie in self.among(found):
            unit = reduce(gcd, (sizes[name] for name in tie))
            share = sum(found[name] / sizes[name] for name in tie) / len(tie)
            floor = max(1, *(ceil(floors[name] * unit / sizes[name]) for name in tie))
            kept = rounded(int(share * unit + SLACK), unit, floor, step_of(tie, sizes, multiples))
            found.update({name: kept * (sizes[name] // unit) for name in tie})
        return found


def step_of(tie: Sequence[str], sizes: Mapping[str, int], multiples: Mapping[str, int]) -> int:
    """The step of a share, in parts of the greatest common divisor of the sizes, that is a multiple for each group."""
    unit = reduce(gcd, (sizes[name] for name in tie))
    return lcm(*(multiples[name] // gcd(multiples[name], sizes[name] // unit) for name in tie))


FREE = Ties()


def ties_of(model: nn.Module, trace: Trace, channels: Channels) -> Ties:
    """An exported graph has no code of its own, and so none."""
    if isinstance(model, GraphModule):
        return FREE
    values = channels.on(trace.module)
    read = _axes_read(trace, channels)
    found = _Tied(channels.axes)
    by_attribute: dict[tuple[str, str], Term] = {}
    divisors: set[Atom] = set()
    for node in trace.module.graph.nodes:
        if node.op != "call_function" or node not in values:
            continue
        call = Call.of(channels.axes, node, values)
        for first, second in pairwise(_pieces(call)):
            found.tie(first, second)
        sizes = [(size, term) for size, term in _constants(call) if not isinstance(channels.axes.look(term), Fixed)]
        for size, term in sizes:
            keys, own = _holders(model, node, size), stack_of(node)[:1]
            for key in keys:
                found.tie(by_attribute.setdefault(key, term), term)
            atom = found.atom(term)
            if not own or any(path in own for path, _ in keys) or atom is None or atom.reason is not None:
                continue
            for whole in read.get(own[0], ()):
                others = [found.atom(other) for factor, other in sizes if factor * size == whole.size]
                heads = [other for other in others if other is not None and other is not atom]
                if whole.size == size or heads:
                    found.tie(whole, term)
                    divisors.update(heads[:1] if whole.size != size else ())
                    break
    names = {group.atom: group.name for group in channels.groups if group.reason is None and group.size > 1}
    same = (tuple(names[atom] for atom in atoms if atom in names) for atoms in found.sets())
    return Ties(tuple(tie for tie in same if len(tie) > 1), frozenset(names[a] for a in divisors if a in names))


def _axes_read(trace: Trace, channels: Channels) -> dict[str, list[Atom]]:
    """Module to the axes, of those that can be cut, of the tensors that it is given."""
    found: dict[str, list[Atom]] = {}
    stacks = {node: stack_of(node) for node in trace.module.graph.nodes}
    for node, own in stacks.items():
        for source in node.all_input_nodes:
            terms = channels.values.get(source.name)
            if source.op == "get_attr" or not isinstance(terms, tuple):
                continue
            atoms = [a for a in map(channels.axes.look, terms) if isinstance(a, Atom) and a.reason is None]
            for path in own:
                if path not in stacks[source]:
                    known = found.setdefault(path, [])
                    known += [atom for atom in atoms if atom not in known]
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
    pieces = call.given.get("split_sizes")
    if isinstance(pieces, (list, tuple)) and isinstance(made, list):
        at = call.axis("dim", len(made[0]))
        yield from _known(cast(Sequence[object], pieces), tuple(terms[at] for terms in made))


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

    def atom(self, term: Term) -> Atom | None:
        """What a term's size is a multiple of: the atom that it repeats."""
        term = self._axes.look(term)
        inside = _inside(term) if isinstance(term, (Cat, Prod)) else (term,)
        found = [part for part in inside if isinstance(part, Atom)]
        repeated = len(set(inside)) == 1 if isinstance(term, Cat) else len(found) == 1
        if not found or not repeated or any(isinstance(part, (Cat, Prod)) for part in inside):
            return None
        return found[0]

    def tie(self, first: Term, second: Term) -> None:
        """State that both keep the same share of their size. Other forms can have it in many ways: left."""
        first, second = self._axes.look(first), self._axes.look(second)
        one, other = self.atom(first), self.atom(second)
        if one is not None and other is not None:
            if one is not other and None is one.reason is other.reason:
                self._above[self._root(one)] = self._root(other)
            return
        for kind in (Prod, Cat):
            if isinstance(first, kind) and isinstance(second, kind):
                ours, others = _inside(first), _inside(second)
                if [term.size for term in ours] == [term.size for term in others]:
                    for mine, its in zip(ours, others, strict=True):
                        self.tie(mine, its)

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
