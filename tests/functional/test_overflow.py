"""Certificates against enumeration, and against the saturating instruction written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lissom.functional.overflow import worst_pair


def saturates(first: int, second: int, largest: int) -> bool:
    """Whether vpmaddubsw leaves 16 bits for some inputs: the sum is linear in each, so the corners decide."""
    sums = [a * first + b * second for a, b in itertools.product((0, largest), repeat=2)]
    return any(int(np.clip(s, -(2**15), 2**15 - 1)) != s for s in sums)


@given(
    hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.integers(-127, 127)),
    st.integers(0, 255),
)
def test_a_row_is_certified_exactly_when_no_pair_saturates(steps: np.ndarray, largest: int) -> None:
    found = worst_pair(torch.from_numpy(steps), largest)
    pairs = [list(itertools.combinations(row.tolist(), 2)) or [(int(row[0]), 0)] for row in steps]
    assert found.rows == sum(any(saturates(*pair, largest) for pair in row) for row in pairs)
    assert found.safe is (found.rows == 0)
    sums = [largest * (max(a, 0) + max(b, 0)) for row in pairs for a, b in row]
    assert found.highest == max(sums)


def test_seven_bits_are_safe_for_all_inputs_and_eight_are_not() -> None:
    assert worst_pair(torch.full((1, 4), 63), 255).safe
    assert worst_pair(torch.full((1, 4), -63), 255).safe
    assert worst_pair(torch.full((1, 4), 127), 255).rows == 1
    assert worst_pair(torch.full((1, 4), 127), 129).safe  # 127 * 2 * 129 = 32766


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        worst_pair(torch.zeros(1, 1), -1)
    with pytest.raises(ValueError, match=r"matrix \(rows, n\), got the shape \(3,\)"):
        worst_pair(torch.zeros(3), 255)
