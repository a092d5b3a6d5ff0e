"""What an operator's rule sees of its call: the terms of its arguments, its plain arguments, the shape it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch._ops import OpOverload
from torch.fx import Node as FxNode

from lissom.graph.axes import Atom, Axes, Fixed, Term
from lissom.graph.describe import hint_of, op_name, schema_of

Terms = tuple[Term, ...]
Value = Terms | list[Terms]
"""The axes of a tensor, outermost first, or those of several tensors."""

SLIDES = "a window slides over it"
"""Height, width and the like: no channels, and nothing to tell a user about."""


@dataclass(frozen=True, eq=False)
class Call:
    """One operator call."""

    axes: Axes
    node: FxNode
    values: dict[FxNode, Value]
    given: dict[str, Any] = field(default_factory=dict[str, Any])
    """Arguments by the schema's names, defaults filled in."""
    pointers: dict[FxNode, Term] = field(default_factory=dict[FxNode, Term])
    """Values that are numbers of places, such as those that `topk` chose: to the axis that they count on."""

    @classmethod
    def of(
        cls,
        axes: Axes,
        node: FxNode,
        values: dict[FxNode, Value],
        pointers: dict[FxNode, Term] | None = None,
    ) -> Call:
        given: dict[str, Any] = {}
        if isinstance(node.target, OpOverload):
            for position, argument in enumerate(schema_of(node.target).arguments):
                default = argument.default_value if argument.has_default_value() else None
                value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name, default)
                given[argument.name] = value
        return cls(axes, node, values, given, {} if pointers is None else pointers)

    @property
    def op(self) -> str:
        return op_name(self.node)

    def tensor(self, name: str) -> Terms | None:
        """The terms of a tensor argument; None for a number or nothing."""
        return self.terms_of(self.given.get(name))

    def terms_of(self, value: object) -> Terms | None:
        found = self.values.get(value) if isinstance(value, FxNode) else None
        return found if isinstance(found, tuple) else None

    def need(self, name: str) -> Terms:
        found = self.tensor(name)
        assert found is not None, f"{self.node.name} has no tensor {name}"
        return found

    def tensors(self, name: str) -> list[Terms]:
        """The terms of a list of tensors."""
        given = cast(Sequence[object], self.given.get(name) or ())
        return [terms for terms in map(self.terms_of, given) if terms is not None]

    def every(self) -> list[Terms]:
        """The terms of all tensors that go in."""
        found: list[Terms] = []
        for source in self.node.all_input_nodes:
            value = self.values.get(source)
            if isinstance(value, tuple):
                found.append(value)
            elif value is not None:
                found += value
        return found

    def pointer(self, value: object) -> Term | None:
        """The axis that a value counts on, if that is known."""
        return self.pointers.get(value) if isinstance(value, FxNode) else None

    def number(self, name: str) -> int:
        return hint_of(argument(self.given[name]))

    def numbers(self, name: str) -> list[int]:
        value = self.given.get(name)
        if value is None:
            return []
        if isinstance(value, (list, tuple)):
            return [hint_of(argument(v)) for v in cast(Sequence[object], value)]
        return [hint_of(argument(value))]

    def axis(self, name: str, rank: int) -> int:
        at = self.number(name)
        return at + rank if at < 0 else at

    def axis_set(self, name: str, rank: int) -> list[int]:
        """Axes of a reduction; none named means all of them."""
        named = self.numbers(name)
        return [at % rank for at in named] if named else list(range(rank))

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.node.meta.get("val"))

    def fixed(self) -> Terms:
        return tuple(Fixed(size) for size in self.shape)

    def unify(self, first: Term, second: Term) -> None:
        self.axes.unify(first, second)

    def freeze(self, *terms: Term, reason: str | None = None) -> None:
        for term in terms:
            self.axes.freeze(term, reason)


def argument(value: object) -> object:
    """A size that the graph computes, as the example has it."""
    return value.meta.get("val", 1) if isinstance(value, FxNode) else value


def shape_of(value: object) -> tuple[int, ...]:
    return tuple(hint_of(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()


def fresh(size: int) -> Term:
    """An axis that a call makes out of nothing, alike in all its places."""
    return Atom(size) if size > 1 else Fixed(size)
