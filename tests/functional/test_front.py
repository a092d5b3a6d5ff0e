"""Pareto fronts and their volume against counting, against drawing and against Optuna's."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.front import dominates, front, grown, hypervolume

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


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@given(data=st.data())
def test_what_a_point_adds_is_the_difference_that_it_makes(size, data):
    *points, new = [*data.draw(clouds(size)), data.draw(st.tuples(*[numbers] * size))]
    reference = (5.0,) * size
    added = counted([*points, new], reference) - counted(points, reference)
    assert grown(points, new, reference) == pytest.approx(added, abs=1e-9)


def test_two_known_volumes():
    assert hypervolume([(1.0, 2.0), (2.0, 1.0)], (3.0, 3.0)) == 3.0
    assert hypervolume([(3.0, 0.0)], (3.0, 3.0)) == 0.0


@pytest.mark.parametrize("size", [2, 3, 4])
def test_volume_is_the_share_of_drawn_places_that_some_point_dominates(size):
    draws = np.random.default_rng(size)
    points = draws.random((12, size))
    places = draws.random((20_000, size))
    share = (places[:, None] >= points).all(2).any(1).mean()
    # Four standard deviations of a share of so many draws.
    assert hypervolume(points.tolist(), (1.0,) * size) == pytest.approx(share, abs=4 * 0.5 / len(places) ** 0.5)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_volume_is_the_one_that_optuna_shows(size):
    points = np.random.default_rng(10 + size).random((9, size))
    study = optuna.create_study(directions=["minimize"] * size)
    study.add_trials([optuna.trial.create_trial(values=list(point)) for point in points])
    seen = optuna.visualization.plot_hypervolume_history(study, [0.9] * size).data[0].y
    for count in range(1, len(points) + 1):
        assert hypervolume(points[:count].tolist(), (0.9,) * size) == pytest.approx(seen[count - 1])
