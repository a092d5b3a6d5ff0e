"""Pareto fronts and the volume that they dominate. Everything is to be as small as possible.

    HV(P, r) = volume of  union over p in P of [p, r]

The hypervolume (Zitzler and Thiele 1998, "Multiobjective optimization using evolutionary algorithms: a comparative case
study", PPSN V) by slicing: points are sorted along the last objective, and each slab is as thick as the way to the next
point and as large as the hypervolume of the points before it in the other objectives (Fonseca, Paquete and López-Ibáñez
2006, "An improved dimension-sweep algorithm for the hypervolume indicator", section 2). Exponential in the number of
objectives in the worst case; searches have two to four.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

Values = Sequence[float]


def dominates(a: Values, b: Values) -> bool:
    """Nowhere worse and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Values]) -> list[int]:
    """Indices of the points that no other dominates, in order; of equal points, the first."""
    found: list[int] = []
    for index, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        if not beaten and not any(tuple(points[kept]) == tuple(point) for kept in found):
            found.append(index)
    return found


def hypervolume(points: Sequence[Values], reference: Values) -> float:
    """Of the points that are better than the reference in everything; 0 without one."""
    inside = {tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))}
    return _volume(sorted(inside), tuple(reference))


def grown(points: Sequence[Values], new: Values, reference: Values) -> float:
    """What a further point adds to the hypervolume: its own box less what the others dominate of it."""
    box = [max(r - x, 0.0) for x, r in zip(new, reference, strict=True)]
    inside = [tuple(max(x, own) for x, own in zip(p, new, strict=True)) for p in points]
    return prod(box) - hypervolume([inside[i] for i in front(inside)], reference) if all(box) else 0.0


def _volume(points: Sequence[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    if not points:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in points)
    ordered = sorted(points, key=lambda p: p[-1])
    total = 0.0
    depths = [*(p[-1] for p in ordered), reference[-1]]
    for count, (near, far) in enumerate(pairwise(depths), start=1):
        if far > near:
            total += (far - near) * _volume([p[:-1] for p in ordered[:count]], reference[:-1])
    return total
