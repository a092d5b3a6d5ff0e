"""Weight grids: closed forms, torchao as a peer, brute force over clipping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

from lissom.functional.affine import quantize_weight, weight_scales
from lissom.functional.weightgrid import (
    SHRINKS,
    clipped_grid,
    grid,
    low_bit_grid,
    restored_groups,
    weight_limit,
)

BITS = (8, 4, 3, 2)
weights = st.builds(
    lambda rows, n, seed, spread: torch.randn(rows, n, generator=torch.Generator().manual_seed(seed)) * 10**spread,
    st.integers(1, 5),
    st.integers(1, 17),
    st.integers(0, 2**20),
    st.integers(-6, 4),
)


@given(weights, st.sampled_from(BITS), st.sampled_from([None, 1, 4, 32]), st.booleans())
def test_rounding_moves_a_weight_by_at_most_half_a_step_inside_the_grid(weight, bits, group, symmetric):
    made = grid(weight, bits, group=group, symmetric=symmetric)
    steps = made.steps(weight)
    assert bool((steps == steps.round()).all())
    assert bool(((steps >= made.low) & (steps <= made.high)).all())
    assert made.high - made.low == (2 * weight_limit(bits) if symmetric else 2**bits - 1)
    # An affine zero point is rounded, which moves the ends by up to another half step.
    allowed = made.scales(weight.shape[1]) * (0.5 if symmetric else 1.0)
    assert bool(((made.restored(steps) - weight).abs() <= allowed * (1 + 1e-4) + 1e-30).all())
    assert torch.equal(made.rounded(torch.zeros_like(weight)), torch.zeros_like(weight))
    assert torch.equal(made.steps(made.restored(steps)), steps)


def test_eight_bits_per_row_are_the_grid_of_int8_weights():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] *= 1e-9
    made = grid(weight.flatten(1), 8)
    scales = weight_scales(weight, 0)
    assert torch.equal(made.scale[:, 0], scales)
    assert torch.equal(made.steps(weight.flatten(1)), quantize_weight(weight, scales, 0).float().flatten(1))


@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 8, False), (3, 8, False), (2, 4, False), (4, 8, True)])
def test_groups_agree_with_torchao(bits, group, symmetric):
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(bits))
    made = grid(weight, bits, group=group, symmetric=symmetric)
    low, high = (-weight_limit(bits), weight_limit(bits)) if symmetric else (0, 2**bits - 1)
    scale, zero = choose_qparams_affine(
        weight,
        MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC,
        (1, group),
        torch.int8 if symmetric else torch.uint8,
        low,
        high,
    )
    torch.testing.assert_close(made.scale, scale.reshape(5, -1), rtol=1e-5, atol=0.0)
    steps = quantize_affine(weight, (1, group), scale, zero, torch.int8 if symmetric else torch.uint8, low, high)
    assert float((steps.float() - made.steps(weight)).abs().max()) <= 1  # a tie may fall to either side
    assert float((steps.float() != made.steps(weight)).float().mean()) < 0.02


@given(weights, st.sampled_from(BITS), st.sampled_from([None, 4]), st.booleans())
def test_clipping_takes_the_best_of_all_candidates_in_every_run(weight, bits, group, symmetric):
    chosen = clipped_grid(weight, bits, group=group, symmetric=symmetric)
    width = group or weight.shape[1]

    def errors(made):
        gaps = (made.rounded(weight) - weight).square()
        return torch.stack([part.sum(1) for part in gaps.split(width, 1)], 1)

    brute = torch.stack([errors(grid(weight, bits, group=group, symmetric=symmetric, shrink=c)) for c in SHRINKS])
    torch.testing.assert_close(errors(chosen), brute.amin(0), rtol=1e-4, atol=1e-30)


def test_two_bits_of_normal_weights_clip_to_what_theory_says():
    """The best ternary step of a normal distribution is 1.2240 standard deviations (Max 1960, table of 3 levels)."""
    weight = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    step = float(clipped_grid(weight, 2).scale)
    assert step == pytest.approx(1.2240, abs=0.02 * float(weight.abs().max()))


def test_importance_protects_the_columns_that_matter():
    weight = torch.tensor([[1.0, 0.3, 0.3, 0.3]])
    assert float(clipped_grid(weight, 2, importance=torch.tensor([1.0, 0.0, 0.0, 0.0])).scale) == pytest.approx(1.0)
    assert float(clipped_grid(weight, 2, importance=torch.tensor([0.0, 1.0, 1.0, 1.0])).scale) < 0.35


def test_nothing_but_zeros_and_broken_weights():
    for empty in (torch.zeros(2, 4), torch.zeros(2, 0)):
        for made in (grid(empty, 4), low_bit_grid(empty, 8), low_bit_grid(empty, 4)):
            assert torch.equal(made.scale, torch.ones(2, 1))
            assert torch.equal(made.rounded(empty), empty)
    with pytest.raises(ValueError, match="NaN or infinite"):
        grid(torch.tensor([[float("nan")]]), 4)
    with pytest.raises(ValueError, match="at least one weight, got 0"):
        grid(torch.ones(1, 2), 4, group=0)


@given(weights, st.sampled_from(BITS), st.sampled_from([None, 1, 4, 32]), st.booleans())
def test_a_rounded_weight_is_on_its_grid_already(weight, bits, group, symmetric):
    made = low_bit_grid(weight, bits, group=group, symmetric=symmetric)
    once = made.rounded(weight)
    assert torch.equal(made.rounded(once), once)


@given(weights, st.sampled_from(BITS), st.sampled_from([(1, 2), (2, 4), (4, 16), (4, None)]))
def test_finer_groups_have_no_larger_steps(weight, bits, groups):
    fine, coarse = (grid(weight, bits, group=group) for group in groups)
    assert bool((fine.scales(weight.shape[1]) <= coarse.scales(weight.shape[1])).all())


@given(weights, st.sampled_from(BITS), st.sampled_from([None, 1, 4, 32]), st.booleans())
def test_steps_are_restored_as_the_grid_does_in_any_shape(weight, bits, group, symmetric):
    made = grid(weight, bits, group=group, symmetric=symmetric)
    steps = made.steps(weight)
    kept = steps.to(torch.int8 if symmetric else torch.uint8).reshape(len(weight), -1, 1)
    zero = None if symmetric else made.zero.to(torch.uint8)
    found = restored_groups(kept, made.scale, zero, made.group)
    assert found.shape == kept.shape
    assert torch.equal(found.flatten(1), made.restored(steps))
