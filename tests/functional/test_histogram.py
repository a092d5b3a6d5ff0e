"""Histograms equal direct counting, and do not depend on pieces or their order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.histogram import BINS, SMALLEST_EXPONENT, Histogram, Tally

SMALLEST = 2.0**-149
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([0.0, -0.0, SMALLEST, -SMALLEST, 1.0, -1.0, 2.0**-126, 3.4028234663852886e38]),
    st.floats(-4, 4, width=32),
)
many = st.lists(numbers, min_size=1, max_size=60)


def histogram(*pieces: torch.Tensor) -> Histogram:
    tally = Tally()
    for piece in pieces:
        tally.add_(piece)
    return tally.histogram()


def counted(values: list[float]) -> Histogram:
    """Straight from the definition, in exact fractions."""
    largest = max(abs(v) for v in values)
    exponent = SMALLEST_EXPONENT
    while largest and Fraction(largest) >= BINS * Fraction(2) ** exponent:
        exponent += 1
    bins: dict[int, int] = {}
    for value in values:
        if value:
            place = math.floor(abs(Fraction(value)) / Fraction(2) ** exponent)
            place = place if value > 0 else -1 - place
            bins[place] = bins.get(place, 0) + 1
    used = range(min(bins), max(bins) + 1) if bins else range(0)
    return Histogram(
        low=min(values) + 0.0,
        high=max(values) + 0.0,
        zeros=sum(v == 0 for v in values),
        exponent=exponent,
        first=used.start,
        counts=tuple(bins.get(i, 0) for i in used),
    )


@given(many)
def test_equals_direct_counting(values):
    seen = histogram(torch.tensor(values))
    assert repr(seen) == repr(counted(values))
    assert seen.count == len(values)


@given(many, st.lists(st.integers(0, 60), max_size=5), st.randoms(use_true_random=False))
def test_pieces_and_order_change_nothing(values, cuts, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    pieces = torch.tensor_split(torch.tensor(shuffled), sorted(cuts))
    whole = repr(counted(values))
    assert repr(histogram(*pieces)) == whole
    parts = [histogram(piece) for piece in pieces if piece.numel()]
    random.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = part.merge(merged)
    assert repr(merged) == whole


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-(2.0**1000), max_value=2.0**1000)))
def test_double_precision(values):
    if values:
        seen = histogram(torch.tensor(values, dtype=torch.float64))
        assert repr(seen) == repr(counted(values))


def test_between_half_and_all_bins_are_used():
    for largest in (1.0, 1.5, math.nextafter(2.0, 0), 2.0**-149, 3e38, 1e-39):
        seen = histogram(torch.tensor([largest], dtype=torch.float64))
        assert BINS / 2 <= seen.first < BINS
        assert seen.first * seen.width <= largest < (seen.first + 1) * seen.width


def test_many_values_and_half_precision():
    torch.manual_seed(0)
    for values in (torch.randn(300, 700), torch.randn(5000).half(), torch.randn(5000).bfloat16().relu()):
        seen = histogram(values)
        plain = values.double().numpy().ravel()
        edges = np.arange(seen.first, seen.first + len(seen.counts) + 1) * seen.width
        # numpy's bins are closed on the left; ours mirror each other, so that edges below zero belong to the left.
        wanted = np.histogram(plain[plain > 0], edges)[0] + np.histogram(-plain[plain < 0], -edges[::-1])[0][::-1]
        assert tuple(wanted) == seen.counts
        assert seen.zeros == (plain == 0).sum()


def test_json_and_size_do_not_grow():
    torch.manual_seed(0)
    tally = Tally()
    for factor in range(1, 30):
        tally.add_(torch.randn(1000) * factor)
    seen = tally.histogram()
    assert len(seen.counts) <= 2 * BINS
    assert Histogram.model_validate_json(seen.model_dump_json()) == seen


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    tally = Tally()
    tally.add_(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="a histogram needs finite values, got a tensor with the range"):
        tally.add_(torch.tensor([2.0, bad]))
    assert tally.histogram() == histogram(torch.tensor([1.0]))


def test_nothing_counted():
    tally = Tally()
    tally.add_(torch.empty(0, 3))
    with pytest.raises(ValueError, match="nothing was counted: no values, or only empty tensors"):
        tally.histogram()
    assert histogram(torch.zeros(5)) == Histogram(low=0.0, high=0.0, zeros=5)
