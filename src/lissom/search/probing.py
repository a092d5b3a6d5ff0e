"""Which candidates fill the table of layers: a few widths, every precision, and both at once; then depth and ranks.

The most telling come first, so that a search with little time stops anywhere in the list.
"""

from __future__ import annotations

from lissom.search.space import Point, Space

FORETELLING = frozenset({"knapsack", "hypervolume"})
"""Searchers that ask what a candidate will take."""


def probed(space: Space) -> list[Point]:
    """Points of the space, each once; the original is not among them, it is timed anyway."""
    half, narrow, wide = (_at(space.prune, share) for share in (0.5, 1.0, 0.25))
    found = [Point(prune=half)]
    found += [Point(precision=one) for one in space.precision]
    found += [Point(prune=half, precision=one) for one in space.precision]
    found += [Point(depth=space.depth[-1]), Point(rank=_at(space.rank, 0.5)), Point(prune=narrow), Point(prune=wide)]
    found += [Point(depth=_at(space.depth, 0.5)), Point(rank=space.rank[-1])]
    found += [Point(prune=narrow, precision=one) for one in space.precision]
    return [one for one in dict.fromkeys(found) if one != Point()]


def _at(values: tuple[float, ...], share: float) -> float:
    """The value at that share of the way from the first to the last."""
    return values[round(share * (len(values) - 1))]
