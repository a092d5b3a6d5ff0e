"""Axes whose places are modules: the outputs of the entries of one `ModuleList`, stacked.

Cutting a place of such an axis means leaving the module out: the stack loses an operand, and whatever only that
operand needed is computed no more. An axis counts as one of modules where every operand comes out of another entry of
the same list, and all entries read the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import cast

import numpy as np
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from lissom.graph.axes import Atom, Axes, Indices
from lissom.graph.coupling import Terms, Value
from lissom.graph.describe import op_name, stack_of
from lissom.graph.graph import LOOKS

STACKS = frozenset({"stack", "cat", "concat"})

Edge = tuple[Atom, int]
"""A place of an axis of modules: the operand of that number."""
Needed = frozenset[frozenset[Edge]]
"""Sets of operands: a node is computed if all operands of one of the sets stay."""
ALWAYS: Needed = frozenset({frozenset()})


def entries(node: FxNode) -> tuple[str, ...] | None:
    """The paths of the modules that a stack puts side by side (`experts.0`, `experts.1`); None for other stacks."""
    operands = operands_of(node)
    around = set(stack_of(node))
    paths = [_entry(one, around) for one in operands]
    if len(operands) < 2 or len(set(paths)) < len(paths) or any(path is None for path in paths):
        return None
    found = cast(list[str], paths)
    lists = {path.rpartition(".")[0] for path in found}
    if len(lists) > 1 or not all(path.rpartition(".")[2].isdigit() for path in found):
        return None
    read = [_read(one, path) for one, path in zip(operands, found, strict=True)]
    return tuple(found) if all(one == read[0] for one in read) else None


def operands_of(node: FxNode) -> list[FxNode]:
    given: object = node.args[0] if node.args else node.kwargs.get("tensors")
    return [one for one in cast(Sequence[object], given) if isinstance(one, FxNode)]


def _entry(node: FxNode, around: set[str]) -> str | None:
    """The module that a value comes out of, called beside the stack; what is between is of one operand."""
    while True:
        inside = [path for path in reversed(stack_of(node)) if path not in around]
        if inside:
            return inside[0]
        sources = [one for one in node.all_input_nodes if one.op == "call_function"]
        if len(sources) != 1:
            return None
        node = sources[0]


def _read(node: FxNode, path: str) -> set[FxNode]:
    """The values from outside that a module computes this one of."""
    found: set[FxNode] = set()
    seen: set[FxNode] = set()
    waiting = [node]
    entered = False
    while waiting:
        one = waiting.pop()
        if one in seen or one.op == "get_attr":
            continue
        seen.add(one)
        inside = path in stack_of(one)
        entered = entered or inside
        if inside or not entered:
            waiting += one.all_input_nodes
        else:
            found.add(one)
    return found


def needed(module: GraphModule, axes: Axes, values: Mapping[FxNode, Value]) -> dict[FxNode, Needed]:
    """When each node is still computed, for those that may be left out. Time is linear in the nodes."""
    found: dict[FxNode, Needed] = {}
    for node in reversed(list(module.graph.nodes)):
        if node.op in ("placeholder", "output") or not node.users:
            # What only looks at a size or a type asks for nothing.
            found[node] = frozenset() if op_name(node) in LOOKS else ALWAYS
            continue
        ways: set[frozenset[Edge]] = set()
        for user in node.users:
            edges = list(_edges(node, user, axes, values))
            for way in found[user]:
                ways.update(way | edge for edge in edges)
        found[node] = ALWAYS if frozenset() in ways else frozenset(ways)
    return {node: ways for node, ways in found.items() if ways != ALWAYS}


def _edges(node: FxNode, user: FxNode, axes: Axes, values: Mapping[FxNode, Value]) -> Iterator[frozenset[Edge]]:
    atom = modules_axis(user, axes, values)
    if atom is None:
        yield frozenset()
        return
    for index, operand in enumerate(operands_of(user)):
        if operand is node:
            yield frozenset({(atom, index)})


def modules_axis(node: FxNode, axes: Axes, values: Mapping[FxNode, Value]) -> Atom | None:
    """The channels that the operands of a stack are, if they can be cut."""
    made = values.get(node)
    if node.op != "call_function" or op_name(node) not in STACKS or not isinstance(made, tuple):
        return None
    term = axes.look(made[stacked_axis(node, made)])
    operands = operands_of(node)
    own = isinstance(term, Atom) and term.reason is None and term.size == len(operands)
    return term if own and isinstance(term, Atom) and entries(node) else None


def stacked_axis(node: FxNode, made: Terms) -> int:
    at = cast(int, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0))
    return at % len(made)


def share(ways: Needed, counts: Mapping[Atom, int], kept: Mapping[Atom, Indices]) -> float:
    """1 for a node that is computed, 0 for one that is not; between where it is only known how many modules stay."""
    absent = prod(1 - prod(_stays(edge, counts, kept) for edge in way) for way in ways)
    return 1 - absent


def _stays(edge: Edge, counts: Mapping[Atom, int], kept: Mapping[Atom, Indices]) -> float:
    atom, index = edge
    if atom in kept:
        return float(bool(np.isin(index, kept[atom])))
    return counts.get(atom, atom.size) / atom.size
