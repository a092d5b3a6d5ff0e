"""The upper limit of a paired drop, against the published formula and by how often it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.paired import paired_drop


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 400))
def test_right_and_wrong_answers_have_the_limit_of_agresti_and_min(worse, better, same):
    before = torch.tensor([1.0] * worse + [0.0] * better + [1.0] * same)
    after = torch.tensor([0.0] * worse + [1.0] * better + [1.0] * same)
    n = worse + better + same
    # Agresti and Min: b and c with half a pair each, n with two.
    b, c, m = worse + 0.5, better + 0.5, n + 2
    limit = (b - c) / m + 1.6448536269514722 * math.sqrt((b + c) - (b - c) ** 2 / m) / m
    found = paired_drop(before, after, 0.95)
    assert (found.worse, found.better, found.examples) == (worse, better, n)
    assert found.mean == pytest.approx((worse - better) / n)
    assert found.limit == (pytest.approx(limit, abs=1e-12) if worse or better else 0.0)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=50), st.floats(0.01, 1e3))
def test_the_limit_has_the_unit_of_the_scores(pairs, unit):
    before, after = torch.tensor(pairs, dtype=torch.float64).T
    found, scaled = paired_drop(before, after, 0.9), paired_drop(before * unit, after * unit, 0.9)
    assert scaled.limit == pytest.approx(found.limit * unit, rel=1e-6, abs=1e-6)
    assert paired_drop(before, before, 0.9).limit == 0.0
    assert paired_drop(before, after, 0.99).limit >= found.limit


@pytest.mark.parametrize(("worse", "better"), [(0.02, 0.01), (0.1, 0.1), (0.004, 0.0)])
def test_it_holds_as_often_as_it_says(worse, better):
    """Among samples in which something differs: where nothing does, the limit is 0 by definition."""
    random = np.random.default_rng(0)
    draws = random.choice([1.0, -1.0, 0.0], p=[worse, better, 1 - worse - better], size=(1000, 500))
    held = [
        paired_drop(torch.from_numpy(d), torch.zeros(500, dtype=torch.float64), 0.95).limit >= worse - better
        for d in draws
        if d.any()
    ]
    assert np.mean(held) >= 0.93


@pytest.mark.parametrize(
    ("before", "after", "confidence"),
    [(torch.zeros(2), torch.zeros(3), 0.9), (torch.zeros(0), torch.zeros(0), 0.9), (torch.zeros(2), torch.zeros(2), 1)],
)
def test_what_cannot_be_tested_is_refused(before, after, confidence):
    with pytest.raises(ValueError, match=r"scores|confidence"):
        paired_drop(before, after, confidence)
