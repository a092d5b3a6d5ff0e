"""Pareto fronts and their volume against counting."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.front import dominates, front, hypervolume

numbers = st.integers(0, 6).map(float)


def clouds(size: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    return st.lists(st.tuples(*[numbers] * size), max_size=8)


def counted(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Inclusion and exclusion of boxes: an independent way, exponential in the points."""
    total = 0.0
    inside = list({p for p in points if all(x < r for x, r in zip(p, reference, strict=True))})
    for count in range(1, len(inside) + 1):
        for chosen in combinations(inside, count):
            volume = 1.0
            for axis, end in enumerate(reference):
                volume *= end - max(p[axis] for p in chosen)
            total += volume if count % 2 else -volume
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@given(data=st.data())
def test_volume_is_that_of_the_union_of_boxes(size, data):
    points = data.draw(clouds(size))
    reference = (5.0,) * size
    assert hypervolume(points, reference) == pytest.approx(counted(points, reference))


@given(clouds(3))
def test_front_is_what_nothing_dominates(points):
    found = front(points)
    kept = {points[i] for i in found}
    assert len(kept) == len(found)
    for point in points:
        beaten = any(dominates(other, point) for other in points)
        assert (point in kept) is not beaten


@given(clouds(3), st.tuples(*[numbers] * 3))
def test_one_more_point_never_lowers_the_volume_and_the_front_has_all_of_it(points, more):
    reference = (5.0,) * 3
    whole = hypervolume(points, reference)
    assert hypervolume([*points, more], reference) >= whole - 1e-9
    assert hypervolume([points[i] for i in front(points)], reference) == pytest.approx(whole)


def test_two_known_volumes():
    assert hypervolume([(1.0, 2.0), (2.0, 1.0)], (3.0, 3.0)) == 3.0
    assert hypervolume([(3.0, 0.0)], (3.0, 3.0)) == 0.0
