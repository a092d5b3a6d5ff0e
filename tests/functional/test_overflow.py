"""Certificates against enumeration, and against the saturating instruction written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lissom.functional.affine import weight_scales
from lissom.functional.overflow import safe_scales, worst_pair


def saturates(first: int, second: int, largest: int) -> bool:
    """Whether vpmaddubsw leaves 16 bits for some inputs: the sum is linear in each, so the corners decide."""
    sums = [a * first + b * second for a, b in itertools.product((0, largest), repeat=2)]
    return any(int(np.clip(s, -(2**15), 2**15 - 1)) != s for s in sums)


@given(
    hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=st.integers(-127, 127)),
    st.integers(0, 255),
)
def test_a_row_is_certified_exactly_when_no_neighbours_saturate(steps: np.ndarray, largest: int) -> None:
    found = worst_pair(torch.from_numpy(steps), largest)
    rows = [neighbours(row) for row in steps]
    assert found.rows == sum(any(saturates(*pair, largest) for pair in row) for row in rows)
    assert found.highest == max(largest * (max(a, 0) + max(b, 0)) for row in rows for a, b in row)
    assert found.lowest == min(largest * (min(a, 0) + min(b, 0)) for row in rows for a, b in row)


def neighbours(row: np.ndarray) -> list[tuple[int, int]]:
    """Input channels 2j and 2j + 1 at one place of the kernel, and in the channels of all places in one line."""
    flat = row.reshape(row.shape[0], -1)
    lines = [flat.T.reshape(-1)]
    if row.shape[0] > 1:
        lines += [flat[:, place] for place in range(flat.shape[1])]
    found: list[tuple[int, int]] = []
    for line in lines:
        filled = [*(int(v) for v in line), 0]
        found += [(filled[i], filled[i + 1]) for i in range(0, len(line), 2)]
    return found


@given(st.integers(0, 2**31), st.sampled_from([255, 200, 130]))
def test_scales_are_widened_until_the_row_is_safe_and_no_further(seed: int, largest: int) -> None:
    weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(seed))
    scales = weight_scales(weight, 0)
    found = safe_scales(weight, scales, largest)
    assert not worst_pair(torch.round(weight / found[:, None, None]), largest).rows
    for row, (wide, plain) in enumerate(zip(found.tolist(), scales.tolist(), strict=True)):
        one = weight[row : row + 1]
        if wide == plain:
            assert not worst_pair(torch.round(one / plain), largest).rows
        else:
            limit = round(127 * plain / wide)
            assert 63 <= limit < 127
            assert worst_pair(torch.round(one / (plain * 127 / (limit + 1))), largest).rows


def test_seven_bits_are_safe_for_all_inputs_and_eight_are_not() -> None:
    assert not worst_pair(torch.full((1, 4), 63), 255).rows
    assert not worst_pair(torch.full((1, 4), -63), 255).rows
    assert worst_pair(torch.full((1, 4), 127), 255).rows == 1
    assert not worst_pair(torch.full((1, 4), 127), 129).rows  # 127 * 2 * 129 = 32766
    assert safe_scales(torch.ones(1, 4), torch.tensor([1 / 127]), 255)[0] == pytest.approx(1 / 64)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        worst_pair(torch.zeros(1, 1), -1)
    with pytest.raises(ValueError, match=r"\(out, in, ...\), got \(3,\)"):
        worst_pair(torch.zeros(3), 255)
    with pytest.raises(ValueError, match="at most 255, got 256"):
        safe_scales(torch.zeros(1, 1), torch.ones(1), 256)
