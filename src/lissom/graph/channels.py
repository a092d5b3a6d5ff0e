"""Which slices of which parameters have to be cut together.

The traced graph is walked once. Every parameter axis starts as an atom of its own; the rule of each operator
(`coupling_table`) states which axes meet. What is still an atom at the end is a group of channels: cutting channel i
means cutting the places of i in every parameter axis that holds the atom. The inputs and outputs of the model are
never cut.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.graph.axes import Atom, Axes, Fixed, Indices, Term
from lissom.graph.coupling import SLIDES, Call, Terms, Value, shape_of
from lissom.graph.coupling_moves import unknown as unknown_operator
from lissom.graph.coupling_routes import CHOICES, follow
from lissom.graph.coupling_table import Rule, rule_of
from lissom.graph.describe import layer_of, names_of, op_name
from lissom.graph.graph import LOOKS, Tensor
from lissom.graph.trace import Trace


@dataclass(frozen=True, eq=False)
class Member:
    """An axis of a parameter that holds a group: `places[i]` are the indices that channel i has there."""

    parameter: str
    axis: int
    places: Indices
    """(channels, places of one channel)"""


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only be cut together. `reason` says why they cannot be cut at all; None where they can."""

    name: str
    size: int
    members: tuple[Member, ...]
    atom: Atom
    reason: str | None
    floor: int = 1
    """How many have to stay: as many as a `topk` takes, two of what a softmax runs over."""


@dataclass(frozen=True, eq=False)
class Channels:
    """The coupling of one traced model."""

    axes: Axes
    parameters: Mapping[str, Terms]
    values: Mapping[str, Value]
    """Node name to the terms of what it makes."""
    groups: tuple[Group, ...]
    unknown: Mapping[str, int]
    """Operators without a rule, and how often they occur."""

    def on(self, module: GraphModule) -> dict[FxNode, Value]:
        """The terms by node of the traced graph, or of a copy of it."""
        return {node: self.values[node.name] for node in module.graph.nodes if node.name in self.values}

    def term(self, parameter: str, axis: int) -> Term:
        return self.axes.look(self.parameters[parameter][axis])


def find_channels(trace: Trace) -> Channels:
    """Walk the traced graph. Time is near-linear in its nodes."""
    axes = Axes()
    parameters: dict[str, Terms] = {}
    values: dict[FxNode, Value] = {}
    unknown: dict[str, int] = {}
    pointers: dict[FxNode, Term] = {}
    tensors = _Tensors({t.name: t for t in trace.graph.tensors}, listed_names(trace), parameters)
    for node in trace.module.graph.nodes:
        axes.reason = f"{op_name(node)} in {layer_of(node) or 'the model'} ties it to an axis that cannot be cut"
        made = _value(node, axes, values, pointers, tensors, unknown)
        if made is not None:
            values[node] = made
    return Channels(
        axes=axes,
        parameters=parameters,
        values={node.name: value for node, value in values.items()},
        groups=_groups(axes, parameters, axes.settle()),
        unknown=unknown,
    )


@dataclass(frozen=True, eq=False)
class _Tensors:
    listed: Mapping[str, Tensor]
    names: Mapping[str, str]
    """Every name in the graph to the listed one."""
    terms: dict[str, Terms]

    def of(self, target: str) -> Terms | None:
        name = self.names.get(target)
        if name is not None and name not in self.terms:
            info = self.listed[name]
            self.terms[name] = tuple(_fresh(size, info.dtype) for size in info.shape)
        return None if name is None else self.terms[name]


def _value(
    node: FxNode,
    axes: Axes,
    values: dict[FxNode, Value],
    pointers: dict[FxNode, Term],
    tensors: _Tensors,
    unknown: dict[str, int],
) -> Value | None:
    if node.op == "placeholder":
        return tuple(Fixed(size) for size in shape_of(node.meta.get("val")))
    if node.op == "get_attr":
        return tensors.of(str(node.target))
    if node.op == "output":
        for source in node.all_input_nodes:
            for term in (*_flat(values.get(source)), *_known(pointers.get(source))):
                axes.freeze(term, "it is an output of the model")
        return None
    if node.target is operator.getitem:
        return _item(node, values, pointers)
    if op_name(node) in LOOKS:
        return None
    call = Call.of(axes, node, values, pointers)
    made = _walk(call, unknown) if _has_tensor(node) else None
    follow(call)
    return made


def _item(node: FxNode, values: dict[FxNode, Value], pointers: dict[FxNode, Term]) -> Value | None:
    source, at = cast(FxNode, node.args[0]), cast(int, node.args[1])
    value = values.get(source)
    if source in pointers:
        pointers[node] = pointers[source]
    elif op_name(source) in CHOICES and at == 1:
        call = Call.of(Axes(), source, values)
        chosen = call.need("self")
        pointers[node] = chosen[call.axis("dim", len(chosen))]
    return value[at] if isinstance(value, list) else None


def _known(term: Term | None) -> tuple[Term, ...]:
    return () if term is None else (term,)


def _walk(call: Call, unknown: dict[str, int]) -> Value:
    sources = call.every()
    rule = rule_of(call.op, len(sources))
    if rule is rule_of("", 0):
        unknown[call.op] = unknown.get(call.op, 0) + 1
        call.axes.reason = f"{call.op} is an operator that Lissom does not know"
    made = _fitting(call, rule)
    if made is None:
        # Never guessed: a form of the operator that its rule was not written for is as good as unknown.
        unknown[call.op] = unknown.get(call.op, 0) + 1
        call.axes.reason = f"{call.op} is used in a form that Lissom does not know"
        made = unknown_operator(call)
    return made


def _fitting(call: Call, rule: Rule) -> Value | None:
    """What the rule gives, if it has the shapes that the operator really made."""
    try:
        made = rule(call)
    except (AssertionError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return None
    several = isinstance(made, list)
    shapes = [shape_of(v) for v in call.node.meta["val"]] if several else [call.shape]
    sizes = [tuple(term.size for term in terms) for terms in (made if several else [made])]
    return made if sizes == shapes else None


def _fresh(size: int, dtype: str) -> Term:
    return Atom(size) if size > 1 and dtype.startswith(("float", "bfloat")) else Fixed(size)


def _has_tensor(node: FxNode) -> bool:
    made = node.meta.get("val")
    return isinstance(made, torch.Tensor) or (isinstance(made, (list, tuple)) and bool(made))


def _flat(value: Value | None) -> list[Term]:
    if value is None:
        return []
    return list(value) if isinstance(value, tuple) else [term for terms in value for term in terms]


def listed_names(trace: Trace) -> dict[str, str]:
    """Every name of a parameter or buffer to the one that the graph lists it under."""
    return names_of(trace.module)


def _groups(axes: Axes, parameters: Mapping[str, Terms], floors: Mapping[Atom, int]) -> tuple[Group, ...]:
    members: dict[Atom, list[Member]] = {}
    for name, terms in parameters.items():
        for at, term in enumerate(terms):
            for atom, places in axes.places(term):
                members.setdefault(atom, []).append(Member(name, at, places))
    found: list[Group] = []
    taken: dict[str, int] = {}
    for atom, own in members.items():
        if atom.reason == SLIDES:
            continue
        merged = tuple(_merged(own))
        name = _name(merged)
        taken[name] = taken.get(name, 0) + 1
        number = f"#{taken[name]}" if taken[name] > 1 else ""
        found.append(Group(name + number, atom.size, merged, atom, atom.reason, floors.get(atom, 1)))
    return tuple(found)


def _merged(members: list[Member]) -> list[Member]:
    """An axis that holds an atom twice is one member."""
    by_axis: dict[tuple[str, int], list[Indices]] = {}
    for member in members:
        by_axis.setdefault((member.parameter, member.axis), []).append(member.places)
    return [
        Member(name, axis, places[0] if len(places) == 1 else np.concatenate(places, axis=1))
        for (name, axis), places in by_axis.items()
    ]


def _name(members: tuple[Member, ...]) -> str:
    """The first parameter that makes the channels."""
    first = next((m for m in members if m.axis == 0), members[0])
    return first.parameter if first.axis == 0 else f"{first.parameter}[{first.axis}]"
