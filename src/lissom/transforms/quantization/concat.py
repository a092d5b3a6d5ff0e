"""Values that are concatenated share one scale and zero point.

An integer concatenation copies bytes, so all that it joins, and what it makes, must be on one grid: the one that holds
the union of their ranges. Values joined by several concatenations, or one after the other, are one *family*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lissom.functional.histogram import Histogram
from lissom.functional.ranges import MeanRange, Range
from lissom.graph.graph import Graph, Node
from lissom.graph.statistics import Statistics
from lissom.transforms.quantization.operators import KINDS

NEGATIVE = "what it joins can be negative, and the runtime loses the zero point of integers that it joins"

T = TypeVar("T")


@dataclass(frozen=True)
class Family:
    """Values on one grid. `members` are roots, `tops` the concatenations whose values are all that any member has."""

    members: frozenset[str]
    tops: tuple[str, ...]

    @property
    def name(self) -> str:
        """The value under whose name the range of all is kept."""
        return self.tops[-1]


def families(graph: Graph, chosen: Iterable[Node], root_of: Callable[[Graph, str], str]) -> list[Family]:
    """Families of the chosen concatenations; `root_of` gives the value that a value was moved from."""
    joined: dict[str, frozenset[str]] = {}
    groups: list[tuple[set[str], list[str]]] = []
    for node in chosen:
        if KINDS[node.op] != "concat":
            continue
        roots = [root_of(graph, value) for value in node.values]
        joined[node.name] = frozenset().union(*(joined.get(root, frozenset({root})) for root in roots))
        members, names = {node.name, *roots}, [node.name]
        for group in [group for group in groups if not group[0].isdisjoint(members)]:
            groups.remove(group)
            members |= group[0]
            names = [*group[1], *names]
        groups.append((members, names))
    return [Family(frozenset(members), _tops(names, joined)) for members, names in groups]


def _tops(names: Sequence[str], joined: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    kept: list[str] = []
    for name in sorted(names, key=lambda name: len(joined[name]), reverse=True):
        if not any(joined[name] <= joined[other] for other in kept):
            kept.append(name)
    return tuple(name for name in names if name in kept)


def negative(seen: Statistics, found: Iterable[Family]) -> set[str]:
    """The concatenations, and other members, of families with a negative value."""
    low = [family for family in found if any(top in seen.ranges and seen.ranges[top].low < 0 for top in family.tops)]
    return {member for family in low for member in family.members}


def united(seen: Statistics, found: Iterable[Family]) -> Statistics:
    """With the range of every family under its name, as if its tops were one value.

    Mean ranges are those of all tops, not of their unions.
    """
    several = [family for family in found if len(family.tops) > 1]
    if not several:
        return seen
    ranges, means, histograms = dict(seen.ranges), dict(seen.means), dict(seen.histograms)
    for family in several:
        _unite_(ranges, family, Range.merge)
        _unite_(means, family, MeanRange.merge)
        _unite_(histograms, family, Histogram.merge)
    return seen.model_copy(update={"ranges": ranges, "means": means, "histograms": histograms})


def _unite_(held: dict[str, T], family: Family, merge: Callable[[T, T], T]) -> None:
    own = [held[top] for top in family.tops if top in held]
    if own:
        whole = own[0]
        for one in own[1:]:
            whole = merge(whole, one)
        held[family.name] = whole
