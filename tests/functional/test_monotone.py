"""Curves that never fall, against scipy's isotonic regression."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.functional.monotone import isotonic, rising

NUMBERS = st.floats(-5, 5, allow_nan=False, width=32)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.floats(0.5, 4, width=32)), min_size=1, max_size=12))
def test_it_is_that_of_a_peer(pairs):
    peer = pytest.importorskip("scipy.optimize")
    values, weights = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    found = isotonic(values, weights)
    assert found == pytest.approx(peer.isotonic_regression(values, weights=weights).x, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), NUMBERS), min_size=1, max_size=12), st.lists(NUMBERS, min_size=2))
def test_a_curve_never_falls_anywhere(pairs, asked):
    x, y = np.array(pairs, dtype=np.float64).T
    places = np.sort(np.array(asked) * 3)
    assert (np.diff(rising(x, y, slope=0.7)(places)) >= -1e-9).all()


def test_it_goes_through_its_knots_and_on_beyond_them():
    curve = rising(np.array([0.0, 2.0, 3.0, 3.0]), np.array([0.0, 1.0, 2.9, 3.1]), slope=0.7)
    assert curve(np.array([0.0, 1.0, 2.0, 3.0])) == pytest.approx([0.0, 0.5, 1.0, 3.0])
    assert curve(np.array([-2.0, 4.0])) == pytest.approx([-1.0, 4.0]), "as steep as its ends, at most 1"
    assert rising(np.array([1.0]), np.array([5.0]), slope=0.7)(np.array([0.0, 2.0])) == pytest.approx([4.3, 5.7])
