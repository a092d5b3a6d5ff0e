"""Which weights a task keeps, and how much wider a full backbone has to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.functional.ownership import embedded, keep_largest, width_needed


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_the_largest_candidates_as_numpy_finds_them(rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, candidates = random.standard_normal((rows, columns)), random.random((rows, columns)) < 0.6
    count = int(random.integers(0, candidates.sum() + 1))
    kept = keep_largest(torch.from_numpy(weight), torch.from_numpy(candidates), count).numpy()
    assert kept.sum() == count
    assert not (kept & ~candidates).any()
    if count:
        assert np.abs(weight[kept]).min() >= np.abs(weight[candidates & ~kept]).max(initial=0.0)


def test_of_equal_ones_the_first() -> None:
    kept = keep_largest(torch.ones(2, 3), torch.tensor([[False, True, True], [True, True, False]]), 2)
    assert kept.tolist() == [[False, True, True], [False, False, False]]
    with pytest.raises(ValueError, match="5 of 4 candidates"):
        keep_largest(torch.ones(4), torch.ones(4, dtype=torch.bool), 5)


def test_what_was_there_stays_in_the_corner() -> None:
    block = torch.arange(6).reshape(2, 3)
    whole = embedded(block, (4, 5))
    assert torch.equal(whole[:2, :3], block)
    assert int((whole != 0).sum()) == 5
    assert embedded(block, (2, 3)) is block


def test_width_in_closed_form() -> None:
    # Full, one axis: v n - n >= share v n  <=>  v >= 1 / (1 - share). Two axes: the square root of it.
    assert width_needed([(1000, 0, 1)], 0.2) == 1.25
    assert width_needed([(1000, 0, 2)], 0.36) == 1.25
    assert width_needed([(1000, 500, 1)], 0.2) == 1.0
    assert width_needed([(1000, 0, 1), (1000, 0, 2)], 0.2) == 1.25
    assert width_needed([(1000, 0, 0)], 0.2) is None
    assert width_needed([(1000, 0, 1)], 0.99) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2), st.floats(0, 1), st.floats(0.01, 0.9))
def test_there_is_room_at_the_width_and_not_one_step_before(axes: int, used: float, share: float) -> None:
    weights = 1_000_000
    free = weights - int(used * weights)
    width = width_needed([(weights, free, axes)], share)
    assert width is not None

    def room(at: float) -> float:
        whole = at**axes * weights
        return whole - (weights - free) - share * whole

    assert room(width) >= -1e-3
    assert width == 1.0 or room(width - 1 / 64) < 1e-3
