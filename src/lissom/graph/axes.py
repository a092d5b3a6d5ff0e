"""What an axis of a tensor is made of, so that equal channels of different tensors are known to be one.

An axis is a term:

    Atom(n)            n channels that nothing is known about yet; the unit that is cut
    Fixed(n)           n places that cannot be cut (batch, height, the three of a joint query-key-value)
    Cat(a, b, ...)     a, then b, ...: what `torch.cat` makes and `split` takes apart
    Prod(a, b, ...)    every pair of a and b, b running fastest: what `reshape` makes when it merges axes

`Axes.unify(s, t)` states that place i of s and place i of t are the same channel. Where the terms differ in form, atoms
are refined until they agree: an atom of 768 that meets Prod(12, 64) becomes a product of two new atoms, one that
meets Cat(a, b) becomes that concatenation. What cannot be expressed is frozen, with the reason. This is first-order
unification (Robinson 1965, "A machine-oriented logic based on the resolution principle") with two associative
constructors; every refinement makes atoms smaller, so it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import cast

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Atom:
    """Channels that are cut one by one. Compared by identity."""

    __slots__ = ("meaning", "reason", "size")

    def __init__(self, size: int, reason: str | None = None) -> None:
        self.size = size
        self.meaning: Term | None = None
        """What it turned out to be."""
        self.reason = reason
        """Why it cannot be cut; None where it can."""


@dataclass(frozen=True, slots=True)
class Fixed:
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Cat:
    parts: tuple[Term, ...]
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Prod:
    factors: tuple[Term, ...]
    size: int


Term = Atom | Fixed | Cat | Prod


def cat(parts: Sequence[Term]) -> Term:
    flat: list[Term] = []
    for part in parts:
        for piece in part.parts if isinstance(part, Cat) else (part,):
            last = flat[-1] if flat else None
            if isinstance(piece, Fixed) and isinstance(last, Fixed):
                flat[-1] = Fixed(last.size + piece.size)
            elif piece.size:
                flat.append(piece)
    return flat[0] if len(flat) == 1 else Cat(tuple(flat), sum(p.size for p in flat))


def product(factors: Sequence[Term]) -> Term:
    flat: list[Term] = []
    for factor in factors:
        for piece in factor.factors if isinstance(factor, Prod) else (factor,):
            last = flat[-1] if flat else None
            if isinstance(piece, Fixed) and isinstance(last, Fixed):
                flat[-1] = Fixed(last.size * piece.size)
            elif piece.size != 1:
                flat.append(piece)
    if not flat:
        return Fixed(1)
    return flat[0] if len(flat) == 1 else Prod(tuple(flat), prod(f.size for f in flat))


class _NoFormError(Exception):
    """A term has no split or factorization there."""


@dataclass
class Axes:
    """The terms of one model, and what was found out about them."""

    reason: str = "unknown"
    """Why anything would be frozen now: set by whoever walks the graph."""
    floors: list[tuple[Term, int, str]] = field(default_factory=list[tuple[Term, int, str]])
    """Axes of which so many places have to stay, with the reason. `settle` turns them into floors of atoms."""
    _trail: list[Atom] = field(default_factory=list[Atom])

    def look(self, term: Term) -> Term:
        """The term with everything that is known put in."""
        if isinstance(term, Atom):
            passed: list[Atom] = []
            while isinstance(term, Atom) and term.meaning is not None:
                passed.append(term)
                term = term.meaning
            found = term if isinstance(term, Atom) else self.look(term)
            for atom in passed:
                atom.meaning = found  # the next one to look goes straight there
            return found
        if isinstance(term, Fixed):
            return term
        before = term.parts if isinstance(term, Cat) else term.factors
        after = [self.look(part) for part in before]
        if all(a is b for a, b in zip(before, after, strict=True)):
            return term
        return cat(after) if isinstance(term, Cat) else product(after)

    def freeze(self, term: Term, reason: str | None = None) -> None:
        for atom in self.atoms(term):
            atom.reason = atom.reason or reason or self.reason

    def at_least(self, term: Term, count: int, reason: str) -> None:
        """State that so many places of the term have to stay."""
        self.floors.append((term, count, reason))

    def settle(self) -> dict[Atom, int]:
        """The floors of the atoms, now that everything is known about them.

        An atom that has no more places than its floor is frozen, and so is an axis that is not one atom: how many of
        its places stay depends on several kinds of channels.
        """
        found: dict[Atom, int] = {}
        for term, count, reason in self.floors:
            term = self.look(term)
            if isinstance(term, Atom) and term.size > count:
                found[term] = max(count, found.get(term, 1))
            else:
                self.freeze(term, reason)
        return found

    def atoms(self, term: Term) -> Iterator[Atom]:
        """The atoms of a term, each once for every place it has there."""
        stack: list[Term] = [self.look(term)]
        while stack:
            top = stack.pop()
            if isinstance(top, Atom):
                yield top
            elif isinstance(top, Cat):
                stack.extend(reversed(top.parts))
            elif isinstance(top, Prod):
                stack.extend(reversed(top.factors))

    def unify(self, first: Term, second: Term) -> None:
        """State that both are the same channels, place by place."""
        first, second = self.look(first), self.look(second)
        if first is second or first.size != second.size:
            if first is not second:
                self.freeze(first)
                self.freeze(second)
            return
        if isinstance(first, Fixed) or isinstance(second, Fixed):
            self.freeze(second if isinstance(first, Fixed) else first)
        elif isinstance(first, Atom) or isinstance(second, Atom):
            atom, other = (first, second) if isinstance(first, Atom) else (cast(Atom, second), first)
            self._become(atom, other)
        else:
            try:
                self._match(first, second)
            except _NoFormError:
                self.freeze(first)
                self.freeze(second)

    def _become(self, atom: Atom, other: Term) -> None:
        if atom.reason is not None:
            self.freeze(other, atom.reason)
        if isinstance(other, Atom) or all(inner is not atom for inner in self.atoms(other)):
            atom.meaning = other

    def _match(self, first: Cat | Prod, second: Cat | Prod) -> None:
        if isinstance(first, Cat) and isinstance(second, Cat):
            head = min(first.parts[0].size, second.parts[0].size)
            (a, rest_a), (b, rest_b) = self.split(first, head), self.split(second, head)
        else:
            # A product fixes the shape of the grid; the outermost factor that both can show is compared.
            sizes = [t.factors[0].size for t in (first, second) if isinstance(t, Prod)]
            head = min(sizes)
            if any(size % head for size in sizes):
                raise _NoFormError
            (a, rest_a), (b, rest_b) = self.factor(first, head), self.factor(second, head)
        self.unify(a, b)
        self.unify(rest_a, rest_b)

    def split(self, term: Term, at: int) -> tuple[Term, Term]:
        """The first `at` places and the rest.

        Raises:
            _NoFormError: the border lies inside of something that cannot be split.
        """
        term = self.look(term)
        if at in (0, term.size):
            none = Fixed(0)
            return (none, term) if at == 0 else (term, none)
        if isinstance(term, Fixed):
            return Fixed(at), Fixed(term.size - at)
        if isinstance(term, Atom):
            left, right = Atom(at, term.reason), Atom(term.size - at, term.reason)
            term.meaning = Cat((left, right), term.size)
            return left, right
        if isinstance(term, Cat):
            before: list[Term] = []
            for index, part in enumerate(term.parts):
                if at >= part.size:
                    before.append(part)
                    at -= part.size
                    continue
                left, right = self.split(part, at) if at else (Fixed(0), part)
                return cat([*before, left]), cat([right, *term.parts[index + 1 :]])
            raise AssertionError("a border past the end")
        inner = product(term.factors[1:])
        if at % inner.size:
            raise _NoFormError
        left, right = self.split(term.factors[0], at // inner.size)
        return product([left, inner]), product([right, inner])

    def factor(self, term: Term, outer: int) -> tuple[Term, Term]:
        """The term as a grid of `outer` rows: (rows, columns).

        Raises:
            _NoFormError: the rows are not alike.
        """
        term = self.look(term)
        if term.size % outer:
            raise _NoFormError
        inner = term.size // outer
        if outer == 1 or inner == 1:
            return (Fixed(1), term) if outer == 1 else (term, Fixed(1))
        if isinstance(term, Fixed):
            return Fixed(outer), Fixed(inner)
        if isinstance(term, Atom):
            rows, columns = Atom(outer, term.reason), Atom(inner, term.reason)
            term.meaning = Prod((rows, columns), term.size)
            return rows, columns
        if isinstance(term, Prod):
            return self._factor_product(term, outer)
        return self._factor_cat(term, outer, inner)

    def _factor_product(self, term: Prod, outer: int) -> tuple[Term, Term]:
        first, rest = term.factors[0], product(term.factors[1:])
        if outer == first.size:
            return first, rest
        if outer < first.size:
            rows, left = self.factor(first, outer)
            return rows, product([left, rest])
        if outer % first.size:
            raise _NoFormError
        more, columns = self.factor(rest, outer // first.size)
        return product([first, more]), columns

    def _factor_cat(self, term: Cat, outer: int, inner: int) -> tuple[Term, Term]:
        rows: list[Term] = []
        columns: Term | None = None
        left: Term = term
        # Pieces that are whole numbers of rows keep their own rows; their columns are the same channels.
        while left.size:
            left = self.look(left)
            size = left.parts[0].size if isinstance(left, Cat) else left.size
            piece, left = self.split(left, size if size % inner == 0 else inner)
            own_rows, own_columns = self.factor(piece, piece.size // inner)
            rows.append(own_rows)
            if columns is None:
                columns = own_columns
            else:
                self.unify(columns, own_columns)
        assert columns is not None
        found = self.look(cat(rows))
        if found.size != outer:
            raise _NoFormError
        return found, self.look(columns)

    def divide(self, term: Term, sizes: Sequence[int]) -> tuple[Term, ...]:
        """The term as a grid of these sizes, outermost first; frozen where it has no such form."""
        found: list[Term] = []
        rest = term
        try:
            for size in sizes[:-1]:
                head, rest = self.factor(rest, size)
                found.append(head)
        except _NoFormError:
            self.freeze(term)
            return tuple(Fixed(size) for size in sizes)
        return (*found, rest) if sizes else ()

    def cut(self, term: Term, sizes: Sequence[int]) -> tuple[Term, ...]:
        """The term in pieces of these sizes; frozen where it has none."""
        found: list[Term] = []
        rest = term
        try:
            for size in sizes:
                head, rest = self.split(rest, size)
                found.append(head)
        except _NoFormError:
            self.freeze(term)
            return tuple(Fixed(size) for size in sizes)
        return tuple(found)

    def places(self, term: Term) -> list[tuple[Atom, Indices]]:
        """Where each atom's channels lie: (atom, indices of shape (channels, places for one channel)).

        An atom that occurs twice is listed twice.
        """
        return list(_places(self.look(term)))

    def kept(self, term: Term, kept: dict[Atom, Indices]) -> Indices:
        """The places of an axis that stay when these channels of the atoms stay; an atom that is not named stays."""
        return _kept(self.look(term), kept)

    def size_after(self, term: Term, sizes: dict[Atom, int]) -> int:
        return _size_after(self.look(term), sizes)


def _places(term: Term) -> Iterator[tuple[Atom, Indices]]:
    if isinstance(term, Atom):
        yield term, np.arange(term.size, dtype=np.int64)[:, None]
    elif isinstance(term, Cat):
        start = 0
        for part in term.parts:
            for atom, where in _places(part):
                yield atom, where + start
            start += part.size
    elif isinstance(term, Prod):
        for index, factor in enumerate(term.factors):
            outer = prod(f.size for f in term.factors[:index])
            inner = prod(f.size for f in term.factors[index + 1 :])
            for atom, where in _places(factor):
                rows = np.arange(outer, dtype=np.int64)[:, None] * (factor.size * inner)
                columns = np.arange(inner, dtype=np.int64)[None, :]
                offsets = (rows + columns).reshape(-1)
                grid = where[:, :, None] * inner + offsets[None, None, :]
                yield atom, grid.reshape(len(where), -1)


def _kept(term: Term, kept: dict[Atom, Indices]) -> Indices:
    if isinstance(term, Atom):
        found = kept.get(term)
        return np.arange(term.size, dtype=np.int64) if found is None else found
    if isinstance(term, Fixed):
        return np.arange(term.size, dtype=np.int64)
    if isinstance(term, Cat):
        starts = np.cumsum([0, *(part.size for part in term.parts)])
        return np.concatenate([_kept(p, kept) + s for p, s in zip(term.parts, starts, strict=False)])
    found = np.zeros(1, dtype=np.int64)
    for factor in term.factors:
        found = (found[:, None] * factor.size + _kept(factor, kept)[None, :]).reshape(-1)
    return found


def _size_after(term: Term, sizes: dict[Atom, int]) -> int:
    if isinstance(term, Atom):
        return sizes.get(term, term.size)
    if isinstance(term, Fixed):
        return term.size
    if isinstance(term, Cat):
        return sum(_size_after(part, sizes) for part in term.parts)
    return prod(_size_after(factor, sizes) for factor in term.factors)
