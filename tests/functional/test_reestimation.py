"""Statistics taken again: torch's own batch normalization as the reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.reestimation import FURTHEST, channel_moments, reestimated


def outputs(seed: int, spread: float = 0.2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(12, 3, 5, 4, generator=generator, dtype=torch.float64)
    got = 1.2 * wanted + spread * torch.randn(12, 3, 5, 4, generator=generator, dtype=torch.float64) + 0.3
    return wanted, got, torch.randn(3, generator=generator, dtype=torch.float64)


@given(st.integers(0, 2**16))
def test_it_is_a_batch_normalization_with_the_statistics_of_now(seed):
    wanted, got, bias = outputs(seed)
    factor, moved = reestimated([wanted[:5], wanted[5:]], [got[:5], got[5:]], bias, 1)
    column = (1, -1, 1, 1)
    found = (got - bias.reshape(column)) * factor.reshape(column) + moved.reshape(column)
    mean, deviation = wanted.mean((0, 2, 3)), wanted.std((0, 2, 3), correction=0)
    reference = F.batch_norm(got, None, None, deviation, mean, training=True, eps=1e-12)
    torch.testing.assert_close(found, reference, rtol=1e-9, atol=1e-9)


def test_moments_are_those_of_all_parts_together():
    values, _, _ = outputs(1)
    mean, variance = channel_moments([values[:2], values[2:]], 1)
    torch.testing.assert_close(mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(variance, values.var((0, 2, 3), correction=0))


def test_nothing_is_done_where_nothing_changed_and_constant_channels_only_move():
    wanted, got, bias = outputs(2)
    factor, moved = reestimated([wanted], [wanted], bias, 1)
    torch.testing.assert_close(factor, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(moved, bias)
    wanted[:, 0], got[:, 1] = 4.0, 5.0
    factor, moved = reestimated([wanted], [got], bias, 1)
    assert factor[:2].tolist() == [1.0, 1.0]
    torch.testing.assert_close(moved[0], 4.0 - got[:, 0].mean() + bias[0])


def test_factors_stay_within_bounds():
    wanted, _, bias = outputs(3)
    assert reestimated([wanted], [wanted * 100], bias, 1)[0].tolist() == [1 / FURTHEST] * 3
    assert reestimated([wanted * 100], [wanted], bias, 1)[0].tolist() == [FURTHEST] * 3
