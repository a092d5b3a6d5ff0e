"""Ranges merge to the same whatever the batches and their order."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.ranges import Range, range_of

floats = st.floats(allow_nan=True, allow_infinity=True, width=32)
some = st.builds(
    lambda a, b, n: Range(low=a if math.isnan(a) else min(a, b), high=b if math.isnan(b) else max(a, b), count=n),
    floats,
    floats,
    st.integers(1, 100),
)


def plain(seen: Range) -> tuple[str, str, int]:
    return (repr(seen.low + 0.0), repr(seen.high + 0.0), seen.count)


@given(some, some, some)
def test_merge_is_associative_and_commutative(a, b, c):
    assert plain(a.merge(b)) == plain(b.merge(a))
    assert plain(a.merge(b).merge(c)) == plain(a.merge(b.merge(c)))


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40),
    st.lists(st.integers(1, 40), max_size=5),
)
def test_splitting_changes_nothing(values, cuts):
    x = torch.tensor(values)
    whole = range_of(x)
    parts = [r for piece in torch.tensor_split(x, sorted(cuts)) if (r := range_of(piece)) is not None]
    merged = parts[-1]
    for part in reversed(parts[:-1]):
        merged = merged.merge(part)
    assert merged == whole == Range(low=min(x.tolist()), high=max(x.tolist()), count=len(values))


def test_nan_survives_every_order():
    good, bad = Range(low=0.0, high=1.0, count=1), range_of(torch.tensor([math.nan, 2.0]))
    assert bad is not None
    for merged in (good.merge(bad), bad.merge(good), good.merge(bad).merge(good)):
        assert not merged.finite
        assert math.isnan(merged.low)
        assert math.isnan(merged.high)


def test_empty_tensors_have_no_range():
    assert range_of(torch.empty(0, 3)) is None
