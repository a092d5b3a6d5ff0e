"""Shares and ratios of a histogram against those of the values themselves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.affine import affine, fake_quantize
from lissom.functional.clipping import clipped_share, edges, rounding_sqnr_db, tail
from lissom.functional.histogram import Histogram, Tally


def outside(values: torch.Tensor, low: float, high: float) -> int:
    return int(((values < low) | (values > high)).sum())


def seen(values: torch.Tensor) -> Histogram:
    tally = Tally()
    tally.add_(values)
    return tally.histogram()


@given(st.integers(0, 2**31), st.floats(0.05, 1.5))
def test_the_share_is_that_of_the_values_up_to_one_bin(seed: int, reach: float) -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(seed))
    histogram = seen(values)
    numbers = affine(-reach, reach, "int8", symmetric=True)
    low, high = edges(numbers)
    least = outside(values, low - histogram.width, high + histogram.width)
    most = outside(values, low + histogram.width, high - histogram.width)
    assert least <= round(clipped_share(histogram, numbers) * values.numel()) <= most


def test_no_value_of_its_own_range_is_clipped() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    low, high = float(values.min()), float(values.max())
    assert clipped_share(seen(values), affine(low, high, "uint8", symmetric=False)) == 0.0


def test_the_noise_is_that_of_the_rounded_values() -> None:
    values = torch.randn(20000, generator=torch.Generator().manual_seed(1)).double()
    numbers = affine(-2.0, 2.0, "int8", symmetric=True)
    noise = (values - fake_quantize(values.float(), numbers).double()).square().mean()
    expected = 10 * math.log10(float(values.square().mean() / noise))
    assert rounding_sqnr_db(seen(values.float()), numbers) == pytest.approx(expected, abs=0.05)


def test_zeros_have_neither_signal_nor_tail() -> None:
    zeros = seen(torch.zeros(8))
    numbers = affine(0.0, 0.0, "uint8", symmetric=False)
    assert clipped_share(zeros, numbers) == 0.0
    assert rounding_sqnr_db(zeros, numbers) is None
    assert tail(zeros) == 1.0


def test_one_outlier_makes_a_heavy_tail() -> None:
    values = torch.rand(10000, generator=torch.Generator().manual_seed(2))
    assert tail(seen(values)) == pytest.approx(1.0, abs=0.01)
    assert tail(seen(torch.cat([values, torch.tensor([50.0])]))) == pytest.approx(50.0, rel=0.03)  # up to one bin
