"""The algebra of axes: against enumeration of every place, and what unification may and may not conclude."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.graph.axes import Atom, Axes, Cat, Fixed, Prod, Term, cat, product

Label = frozenset[tuple[Atom, int]]


def labels(axes: Axes, term: Term) -> list[Label]:
    """By definition: for every place of an axis, the channels without which it is gone."""
    term = axes.look(term)
    if isinstance(term, Atom):
        return [frozenset({(term, i)}) for i in range(term.size)]
    if isinstance(term, Fixed):
        return [frozenset()] * term.size
    if isinstance(term, Cat):
        return [label for part in term.parts for label in labels(axes, part)]
    found: list[Label] = [frozenset()]
    for factor in term.factors:
        found = [a | b for a in found for b in labels(axes, factor)]
    return found


def staying(axes: Axes, term: Term, kept: dict[Atom, np.ndarray]) -> list[int]:
    gone = {(atom, i) for atom, own in kept.items() for i in range(atom.size) if i not in own}
    return [place for place, label in enumerate(labels(axes, term)) if not label & gone]


def form(axes: Axes, term: Term) -> object:
    """A term as plain data: atoms as their sizes, frozen ones negative."""
    term = axes.look(term)
    if isinstance(term, Atom):
        return -term.size if term.reason else term.size
    if isinstance(term, Fixed):
        return ("fixed", term.size)
    inner = term.parts if isinstance(term, Cat) else term.factors
    return ("cat" if isinstance(term, Cat) else "prod", *(form(axes, one) for one in inner))


def _where(own: list[Label], channel: tuple[Atom, int]) -> tuple[int, ...]:
    return tuple(place for place, label in enumerate(own) if channel in label)


def patterns(axes: Axes, *terms: Term) -> set[object]:
    """What can be cut: for every free group its channels' places in each of the terms."""
    free = {a for term in terms for a in axes.atoms(term) if a.reason is None and a.size > 1}
    found: set[object] = set()
    for atom in free:
        by_term = [labels(axes, term) for term in terms]
        found.add(tuple(_where(own, (atom, c)) for own in by_term for c in range(atom.size)))
    return found


# ---- terms drawn at random ------------------------------------------------------------------------------------------

Spec = tuple[object, ...]


@st.composite
def specs(draw: Callable[..., object], size: int, depth: int = 3) -> Spec:
    """A term of `size` places; atoms are drawn from a small pool, so that they are met again."""
    kinds = ["atom", "atom", "fixed"]
    divisors = [d for d in range(2, size) if size % d == 0]
    if depth and size > 1:
        kinds += ["cat", "cat"] + ["prod", "prod"] * bool(divisors)
    kind = draw(st.sampled_from(kinds))
    if kind == "cat":
        first = draw(st.integers(1, size - 1))
        return ("cat", draw(specs(first, depth - 1)), draw(specs(size - first, depth - 1)))
    if kind == "prod":
        outer = draw(st.sampled_from(divisors))
        return ("prod", draw(specs(outer, depth - 1)), draw(specs(size // outer, depth - 1)))
    return (kind, size, draw(st.integers(0, 1)) if kind == "atom" else 0)


def built(spec: Spec, pool: dict[tuple[int, int], Atom]) -> Term:
    kind, first, second = spec
    if kind == "atom":
        return pool.setdefault((first, second), Atom(first))  # type: ignore[arg-type]
    if kind == "fixed":
        return Fixed(first)  # type: ignore[arg-type]
    return (cat if kind == "cat" else product)([built(first, pool), built(second, pool)])  # type: ignore[arg-type]


sizes = st.sampled_from([2, 3, 4, 6, 8, 12])
one = sizes.flatmap(specs)
pairs = sizes.flatmap(lambda n: st.tuples(specs(n), specs(n)))
triples = sizes.flatmap(lambda n: st.tuples(specs(n), specs(n), specs(n)))
seeds = st.integers(0, 2**16)


def choice(axes: Axes, terms: Sequence[Term], seed: int) -> dict[Atom, np.ndarray]:
    """Some channels of every atom that may be cut; an atom of one channel is none."""
    random = np.random.default_rng(seed)
    found: dict[Atom, np.ndarray] = {}
    for term in terms:
        for atom in axes.atoms(term):
            if atom.reason is None and atom.size > 1:
                count = int(random.integers(1, atom.size + 1))
                found.setdefault(atom, np.sort(random.permutation(atom.size)[:count]).astype(np.int64))
    return found


# ---- normal forms ---------------------------------------------------------------------------------------------------


def test_concatenations_are_flat_and_hold_no_empty_and_no_neighbouring_fixed_parts():
    a, b = Atom(3), Atom(2)
    found = cat([Fixed(1), cat([Fixed(2), a]), Fixed(0), cat([]), b])
    assert isinstance(found, Cat)
    assert found.parts[0] == Fixed(3)
    assert found.parts[1:] == (a, b)
    assert found.size == 8
    assert cat([Fixed(0), a]) is a
    assert cat([Fixed(2), Fixed(3)]) == Fixed(5)
    assert cat([]).size == 0


def test_products_are_flat_and_hold_no_ones_and_no_neighbouring_fixed_factors():
    a, b = Atom(3), Atom(2)
    found = product([Fixed(2), product([Fixed(2), a]), Fixed(1), b])
    assert isinstance(found, Prod)
    assert found.factors[0] == Fixed(4)
    assert found.factors[1:] == (a, b)
    assert found.size == 24
    assert product([Fixed(1), a]) is a
    assert product([Fixed(2), Fixed(3)]) == Fixed(6)
    assert product([]) == Fixed(1)


def test_terms_that_became_known_are_put_into_normal_form():
    axes, a, b = Axes(), Atom(6), Atom(2)
    whole = cat([a, b])
    axes.unify(a, cat([Atom(4), Fixed(2)]))
    axes.unify(b, Fixed(2))  # freezes; a fixed part says nothing about which channels they are
    assert form(axes, whole) == ("cat", 4, ("fixed", 2), -2)
    a = Atom(6)
    whole = product([Fixed(2), a])
    axes.unify(a, product([Fixed(2), Atom(3)]))
    assert form(axes, whole) == ("prod", ("fixed", 4), 3)


# ---- split, factor, divide, cut -------------------------------------------------------------------------------------


def test_an_atom_is_taken_apart_once_and_for_all():
    axes, a = Axes(), Atom(6, "held")
    first, rest = axes.split(a, 2)
    assert (form(axes, first), form(axes, rest), form(axes, a)) == (-2, -4, ("cat", -2, -4))
    again = axes.split(a, 2)
    assert (axes.look(again[0]), axes.look(again[1])) == (first, rest)
    b = Atom(6)
    rows, columns = axes.factor(b, 2)
    assert form(axes, b) == ("prod", 2, 3)
    assert axes.look(b).factors == (rows, columns)  # type: ignore[union-attr]


@pytest.mark.parametrize("at", [0, 4])
def test_borders_at_the_ends_take_nothing_apart(at):
    axes, a = Axes(), Atom(4)
    parts = axes.split(a, at)
    assert parts[at == 0] is a
    assert parts[at != 0] == Fixed(0)
    assert form(axes, a) == 4


@pytest.mark.parametrize("outer", [1, 4])
def test_grids_of_one_row_or_one_column_take_nothing_apart(outer):
    axes, a = Axes(), Atom(4)
    grid = axes.factor(a, outer)
    assert grid[outer == 1] is a
    assert grid[outer != 1] == Fixed(1)


def test_a_product_is_split_between_rows_only():
    axes = Axes(reason="because")
    whole = product([Atom(4), Atom(3)])
    first, rest = axes.cut(whole, [6, 6])
    assert (form(axes, first), form(axes, rest)) == (("prod", 2, 3), ("prod", 2, 3))
    whole = product([Atom(4), Atom(3)])
    assert axes.cut(whole, [5, 7]) == (Fixed(5), Fixed(7))
    assert form(axes, whole) == ("prod", -4, -3)
    assert {atom.reason for atom in axes.atoms(whole)} == {"because"}


def test_a_product_is_divided_along_its_factors_only():
    axes = Axes()
    whole = product([Atom(4), Atom(6)])
    assert [form(axes, t) for t in axes.divide(whole, [2, 4, 3])] == [2, ("prod", 2, 2), 3]
    whole = product([Atom(4), Atom(6)])
    assert axes.divide(whole, [3, 8]) == (Fixed(3), Fixed(8))
    assert form(axes, whole) == ("prod", -4, -6)


def test_the_columns_of_a_concatenation_are_the_same_channels_in_every_row():
    axes, a, b = Axes(), Atom(6), Atom(3)
    rows, columns = axes.divide(cat([a, b]), [3, 3])
    assert form(axes, columns) == 3
    assert form(axes, a) == ("prod", 2, 3)
    assert axes.look(b) is axes.look(columns)
    assert form(axes, rows) == ("cat", 2, ("fixed", 1))


def test_rows_that_cross_the_borders_of_a_concatenation():
    axes, a, b = Axes(), Atom(2), Atom(4)
    rows, columns = axes.divide(cat([a, b]), [2, 3])
    # place i and place i + 3 are one column: a0 = b1, a1 = b2, b0 = b3
    assert rows == Fixed(2)
    assert form(axes, columns) == ("cat", 2, 1)
    assert [len(set(own)) for own in (labels(axes, a), labels(axes, b))] == [2, 3]
    both = labels(axes, cat([a, b]))
    assert both[:3] == both[3:]


@given(one, seeds)
def test_grids_and_pieces_keep_every_place(spec, seed):
    """What a term is divided or cut into is the term: the same places stay."""
    random = np.random.default_rng(seed)
    for how in ("cut", "divide"):
        axes = Axes()
        term = built(spec, {})
        n = term.size
        if how == "cut":
            parts = [int(random.integers(1, n)), 0] if n > 1 else [n, 0]
            parts[1] = n - parts[0]
            found = cat(axes.cut(term, parts))
        else:
            divisors = [d for d in range(1, n + 1) if n % d == 0]
            outer = int(random.choice(divisors))
            found = product(axes.divide(term, [outer, n // outer]))
        assert found.size == n
        kept = choice(axes, [term, found], seed)
        assert list(axes.kept(found, kept)) == list(axes.kept(term, kept))


# ---- unification ----------------------------------------------------------------------------------------------------

PAIRS: dict[str, tuple[Callable[[], tuple[Term, Term]], object, object]] = {
    "atom atom": (lambda: (Atom(4), Atom(4)), 4, 4),
    "atom frozen": (lambda: (Atom(4), Atom(4, "held")), -4, -4),
    "frozen atom": (lambda: (Atom(4, "held"), Atom(4)), -4, -4),
    "atom fixed": (lambda: (Atom(4), Fixed(4)), -4, ("fixed", 4)),
    "fixed fixed": (lambda: (Fixed(4), Fixed(4)), ("fixed", 4), ("fixed", 4)),
    "atom cat": (lambda: (Atom(5), cat([Atom(2), Fixed(3)])), ("cat", 2, ("fixed", 3)), ("cat", 2, ("fixed", 3))),
    "atom prod": (lambda: (Atom(6), product([Atom(2), Atom(3)])), ("prod", 2, 3), ("prod", 2, 3)),
    "frozen prod": (lambda: (Atom(6, "held"), product([Atom(2), Atom(3)])), ("prod", -2, -3), ("prod", -2, -3)),
    "fixed cat": (lambda: (Fixed(5), cat([Atom(2), Atom(3)])), ("fixed", 5), ("cat", -2, -3)),
    "fixed prod": (lambda: (Fixed(6), product([Atom(2), Atom(3)])), ("fixed", 6), ("prod", -2, -3)),
    "cat cat alike": (lambda: (cat([Atom(2), Atom(3)]), cat([Atom(2), Atom(3)])), ("cat", 2, 3), ("cat", 2, 3)),
    "cat cat refined": (
        lambda: (cat([Atom(2), Atom(4)]), cat([Atom(3), Atom(3)])),
        ("cat", 2, 1, 3),
        ("cat", 2, 1, 3),
    ),
    "cat cat partly fixed": (
        lambda: (cat([Fixed(2), Atom(4)]), cat([Atom(3), Atom(3)])),
        ("cat", ("fixed", 2), 1, 3),
        ("cat", -2, 1, 3),
    ),
    "prod prod alike": (
        lambda: (product([Atom(2), Atom(3)]), product([Atom(2), Atom(3)])),
        ("prod", 2, 3),
        ("prod", 2, 3),
    ),
    "prod prod refined": (
        lambda: (product([Atom(4), Atom(3)]), product([Atom(2), Atom(6)])),
        ("prod", 2, 2, 3),
        ("prod", 2, 2, 3),
    ),
    "prod prod with fixed": (
        lambda: (product([Fixed(4), Atom(3)]), product([Atom(2), Atom(6)])),
        ("prod", ("fixed", 4), 3),
        ("prod", -2, ("fixed", 2), 3),
    ),
    "prod prod crossed": (
        lambda: (product([Atom(2), Atom(3)]), product([Atom(3), Atom(2)])),
        ("prod", -2, -3),
        ("prod", -3, -2),
    ),
    "cat prod of whole rows": (
        lambda: (cat([Atom(6), Atom(3)]), product([Atom(3), Atom(3)])),
        ("cat", ("prod", 2, 3), 3),
        ("prod", ("cat", 2, ("fixed", 1)), 3),
    ),
    "prod cat of equal rows": (
        lambda: (product([Fixed(2), Atom(3)]), cat([Atom(3), Atom(3)])),
        ("prod", ("fixed", 2), 3),
        ("cat", 3, 3),
    ),
    "sizes that differ": (lambda: (cat([Atom(2), Atom(3)]), Atom(4)), ("cat", -2, -3), -4),
}  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_unification_of_every_pair_of_forms(name, turned):
    make, first, second = PAIRS[name]
    axes = Axes(reason="for a reason")
    s, t = make()
    axes.unify(*((t, s) if turned else (s, t)))
    assert (form(axes, s), form(axes, t)) == (first, second)
    reasons = {atom.reason for term in (s, t) for atom in axes.atoms(term)} - {None}
    assert reasons <= {"for a reason", "held"}
    axes.unify(s, t)  # said twice is said once
    assert (form(axes, s), form(axes, t)) == (first, second)


def test_the_first_reason_stays():
    axes, a = Axes(reason="later"), Atom(3)
    axes.freeze(a, "first")
    axes.freeze(a, "second")
    axes.unify(a, Fixed(3))
    assert a.reason == "first"
    b = Atom(3)
    axes.freeze(b)
    assert b.reason == "later"


def test_freezing_reaches_everything_that_is_or_becomes_the_same():
    axes, a, b, c = Axes(), Atom(6), Atom(6), Atom(6)
    axes.unify(a, b)
    axes.divide(b, [2, 3])
    axes.freeze(a, "an output")
    axes.unify(c, b)
    assert form(axes, a) == form(axes, b) == form(axes, c) == ("prod", -2, -3)
    assert {atom.reason for atom in axes.atoms(c)} == {"an output"}


def test_one_atom_twice():
    axes, a = Axes(), Atom(2)
    b = Atom(3)
    axes.unify(cat([a, b]), cat([b, a]))  # a0 b0 ; a1 b1 ; b0 b2 ; b1 a0 ; b2 a1: all of them are one
    assert len(set(labels(axes, cat([a, b])))) == 1
    c = Atom(4)
    doubled = cat([c, c])
    places = axes.places(doubled)
    assert [(atom, where.tolist()) for atom, where in places] == [
        (c, [[0], [1], [2], [3]]),
        (c, [[4], [5], [6], [7]]),
    ]


def test_freezing_a_single_place_does_not_freeze_the_product_around_it():
    """An atom of one channel is no channel that could be cut: products drop it."""
    axes = Axes()
    rows, columns = axes.divide(Atom(4), [1, 4])
    axes.freeze(rows)
    assert form(axes, product([rows, columns])) == 4


@given(pairs, seeds)
def test_unified_axes_keep_the_same_places_whatever_is_cut(specs_, seed):
    axes, pool = Axes(), {}
    s, t = (built(spec, pool) for spec in specs_)
    axes.unify(s, t)
    kept = choice(axes, [s, t], seed)
    assert list(axes.kept(s, kept)) == list(axes.kept(t, kept))


@given(triples, seeds)
def test_unification_is_transitive(specs_, seed):
    axes, pool = Axes(), {}
    s, t, u = (built(spec, pool) for spec in specs_)
    axes.unify(s, t)
    axes.unify(u, t)
    kept = choice(axes, [s, t, u], seed)
    assert list(axes.kept(s, kept)) == list(axes.kept(t, kept)) == list(axes.kept(u, kept))


@given(pairs)
def test_unification_is_symmetric_in_what_can_be_cut(specs_):
    found: list[set[object]] = []
    for turned in (False, True):
        axes, pool = Axes(), {}
        s, t = (built(spec, pool) for spec in specs_)
        axes.unify(*((t, s) if turned else (s, t)))
        found.append(patterns(axes, s, t))
    assert found[0] == found[1]


@given(one)
def test_terms_of_one_form_meet_without_loss(spec):
    """Nothing is refined or frozen that the form alone does not ask for."""
    axes = Axes()
    s, t = built(spec, {}), built(spec, {})
    before = patterns(axes, s)
    axes.unify(s, t)
    assert patterns(axes, s) == patterns(axes, t) == before


# ---- places, kept, size_after ---------------------------------------------------------------------------------------


@given(one, seeds)
def test_kept_places_are_those_all_of_whose_channels_are_kept(spec, seed):
    axes, term = Axes(), built(spec, {})
    kept = choice(axes, [term], seed)
    found = axes.kept(term, kept)
    assert found.dtype == np.int64
    assert list(found) == staying(axes, term, kept)
    assert axes.size_after(term, {atom: len(own) for atom, own in kept.items()}) == len(found)
    assert list(axes.kept(term, {})) == list(range(term.size))


@given(one)
def test_places_are_where_a_channel_lies_and_with_the_fixed_ones_cover_the_axis(spec):
    axes, term = Axes(), built(spec, {})
    by_definition = labels(axes, term)
    seen: dict[tuple[Atom, int], list[int]] = {}
    for atom, where in axes.places(term):
        assert where.shape[0] == atom.size
        for channel, own in enumerate(where):
            seen.setdefault((atom, channel), []).extend(own.tolist())
    wanted: dict[tuple[Atom, int], set[int]] = {}
    for place, label in enumerate(by_definition):
        for channel in label:
            wanted.setdefault(channel, set()).add(place)
    assert {channel: set(own) for channel, own in seen.items()} == wanted
    free = {place for place, label in enumerate(by_definition) if not label}
    covered = {place for own in seen.values() for place in own}
    assert covered | free == set(range(term.size))
    assert not covered & free


def test_places_of_nested_terms_by_hand():
    axes, a, b = Axes(), Atom(2), Atom(3)
    term = cat([Fixed(1), product([a, Fixed(2), b])])
    found = {atom: where.tolist() for atom, where in axes.places(term)}
    assert found == {
        a: [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]],
        b: [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]],
    }
    kept = {a: np.array([1]), b: np.array([0, 2])}
    assert axes.kept(term, kept).tolist() == [0, 7, 9, 10, 12]
