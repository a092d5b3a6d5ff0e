"""Affine quantization: properties, an independent integer reference, a peer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

from lissom.functional.affine import (
    SMALLEST_SCALE,
    WEIGHT_LIMIT,
    Affine,
    affine,
    fake_quantize,
    fake_quantize_groups,
    quantize_weight,
    round_bias,
    weight_scales,
)
from lissom.transforms.quantization import rewrite

# x / s carries one float32 rounding of a number up to 256, the scale another: 256 * 2^-23 steps at most.
SLACK = 2 * 256 * 2.0**-23

numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)
dtypes = st.sampled_from(["int8", "uint8"])


def rounded(x: torch.Tensor, grid: Affine) -> torch.Tensor:
    """What the traced graph computes."""
    fixed = (grid.scale, grid.zero_point, *grid.limits, rewrite.DTYPES[grid.dtype])
    steps = rewrite.OPS.quantize_per_tensor.default(x, *fixed)
    return rewrite.OPS.dequantize_per_tensor.default(steps, *fixed)


def reference(x: np.ndarray, grid: Affine) -> np.ndarray:
    """The definition, in numpy integers and float64."""
    low, high = grid.limits
    return np.clip(np.rint(x.astype(np.float64) / grid.scale) + grid.zero_point, low, high).astype(np.int64)


@given(numbers, numbers, dtypes, st.booleans())
def test_zero_is_exact_and_scale_is_usable(a, b, dtype, symmetric):
    grid = affine(min(a, b), max(a, b), dtype, symmetric=symmetric)
    low, high = grid.limits
    assert low <= grid.zero_point <= high
    assert float(rounded(torch.zeros(1), grid)) == 0.0
    assert math.isfinite(grid.scale)
    assert grid.scale >= SMALLEST_SCALE
    assert grid.scale == float(np.float32(grid.scale))
    assert math.isfinite(float(np.float32(1.0) / np.float32(grid.scale)))


@given(
    numbers,
    numbers,
    dtypes,
    st.booleans(),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20),
)
def test_rounding_in_float_is_bit_by_bit_that_through_integers(a, b, dtype, symmetric, values):
    grid = affine(min(a, b), max(a, b), dtype, symmetric=symmetric)
    x = torch.tensor([*values, a, b, grid.low, grid.high])
    steps = torch.arange(-300, 301) * grid.scale
    for given_ in (x, steps, steps + grid.scale / 2):
        assert torch.equal(fake_quantize(given_, grid), rounded(given_, grid))


@given(numbers, numbers, dtypes, st.booleans(), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_rounding_error_is_half_a_step_inside_the_range(a, b, dtype, symmetric, places):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    grid = affine(low, high, dtype, symmetric=symmetric)
    x = torch.tensor([low + (high - low) * place for place in places], dtype=torch.float32).clamp(low, high)
    error = (x.double() - rounded(x, grid).double()).abs()
    assert float(error.max()) <= grid.scale * (0.5 + SLACK)


@given(numbers, numbers, dtypes, st.booleans(), st.lists(numbers, min_size=1, max_size=20))
def test_rounding_twice_is_rounding_once(a, b, dtype, symmetric, values):
    grid = affine(min(a, b), max(a, b), dtype, symmetric=symmetric)
    once = rounded(torch.tensor(values, dtype=torch.float32), grid)
    assert torch.equal(rounded(once, grid), once)


@given(numbers, numbers, dtypes, st.booleans(), st.lists(numbers, min_size=1, max_size=20))
def test_agrees_with_integer_reference_except_on_ties(a, b, dtype, symmetric, values):
    grid = affine(min(a, b), max(a, b), dtype, symmetric=symmetric)
    x = np.array(values, dtype=np.float32)
    wanted = reference(x, grid)
    got = rounded(torch.from_numpy(x), grid).double().numpy() / grid.scale + grid.zero_point
    got = np.rint(got).astype(np.int64)
    position = x.astype(np.float64) / grid.scale
    tie = np.abs(position - np.floor(position) - 0.5) < np.maximum(np.abs(position), 1.0) * 2.0**-22
    assert np.all((got == wanted) | (tie & (np.abs(got - wanted) == 1)))


@given(numbers, numbers)
def test_symmetric_zero_points(a, b):
    low, high = min(a, b), max(a, b)
    assert affine(low, high, "int8", symmetric=True).zero_point == 0
    unsigned = affine(low, high, "uint8", symmetric=True)
    assert unsigned.zero_point == (0 if low >= 0 else 128)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_nothing_but_zeros_has_a_grid_that_leaves_biases_alone(dtype, symmetric):
    grid = affine(0.0, 0.0, dtype, symmetric=symmetric)
    assert grid.scale > 0.25
    bias = torch.tensor([1.25])
    assert float((round_bias(bias, torch.tensor([2.0**-10]), grid.scale) - bias).abs()) <= grid.scale * 2.0**-11


def test_nonnegative_uint8_uses_the_whole_grid():
    grid = affine(0.5, 4.0, "uint8", symmetric=False)
    assert (grid.low, grid.zero_point) == (0.0, 0)
    assert grid.high == pytest.approx(4.0, rel=2.0**-23)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (3.0, 3.0), (-3.0, -3.0), (0.0, 1e-45), (-1e-45, 0.0), (-1e-40, 1e-40)]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_degenerate_ranges_have_finite_positive_scales(low, high, symmetric):
    for dtype in ("int8", "uint8"):
        grid = affine(low, high, dtype, symmetric=symmetric)
        assert 0.0 < grid.scale < math.inf
        back = rounded(torch.tensor([low, high]), grid)
        assert float((back - torch.tensor([low, high])).abs().max()) <= grid.scale * (0.5 + SLACK)


@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 1.0), (0.0, math.nan), (-math.inf, 0.0), (0.0, math.inf), (1.0, 0.0), (0.0, 1e39)]
)
def test_impossible_ranges_raise(low, high):
    with pytest.raises(ValueError, match=r"a range needs finite float32 bounds with low <= high, got \["):
        affine(low, high, "int8", symmetric=False)


weights = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(
        st.just(seed), st.sampled_from([(4, 3), (5, 2, 3, 3), (1, 7), (6, 1, 5)]), st.floats(1e-6, 1e6)
    )
)


def random_weight(seed: int, shape: tuple[int, ...], size: float) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


@given(weights, st.sampled_from([0, 1]))
def test_weight_error_is_half_a_step_of_its_slice(weight, axis):
    w = random_weight(*weight)
    scales = weight_scales(w, axis)
    steps = quantize_weight(w, scales, axis)
    shape = [1] * w.ndim
    shape[axis] = -1
    wide = scales.double().reshape(shape)
    assert steps.dtype == torch.int8
    assert int(steps.abs().max()) <= WEIGHT_LIMIT
    assert bool(((w.double() - steps.double() * wide).abs() <= wide * (0.5 + SLACK)).all())


@given(weights)
def test_scale_per_channel_is_never_coarser_than_per_tensor(weight):
    w = random_weight(*weight)
    whole = float(w.abs().max()) / WEIGHT_LIMIT
    assert float(weight_scales(w, 0).max()) <= whole * (1 + 2.0**-23)


@given(weights)
def test_weights_agree_with_torchao(weight):
    w = random_weight(*weight)
    block = (1, *w.shape[1:])
    kind = MappingType.SYMMETRIC_NO_CLIPPING_ERR
    scale, zero = choose_qparams_affine(w, kind, block, torch.int8, -WEIGHT_LIMIT, WEIGHT_LIMIT, eps=1e-30)
    steps = quantize_affine(w, block, scale, zero, torch.int8, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    ours = weight_scales(w, 0)
    # torchao divides twice the largest magnitude by 254 steps: two roundings apart at most.
    torch.testing.assert_close(ours, scale.flatten().float(), rtol=2.0**-22, atol=0)
    assert int((quantize_weight(w, ours, 0).int() - steps.int()).abs().max()) <= 1
    assert float((quantize_weight(w, ours, 0) != steps).float().mean()) < 0.05


def test_weights_that_are_zero_dead_or_empty():
    assert weight_scales(torch.zeros(3, 4), 0).tolist() == [1.0, 1.0, 1.0]
    assert weight_scales(torch.zeros(3, 0), 0).tolist() == [1.0, 1.0, 1.0]
    dead = torch.tensor([[1.0, -2.0], [0.0, 0.0], [1e-30, 0.0], [1e-42, 0.0]])
    scales = weight_scales(dead, 0)
    assert float(scales.min()) == 2.0 * 2.0**-20
    assert torch.equal(quantize_weight(dead, scales, 0)[1:], torch.zeros(3, 2, dtype=torch.int8))
    denormal = weight_scales(torch.full((2, 2), 1e-42), 0)
    assert bool(((denormal > 0) & denormal.isfinite() & (1 / denormal).isfinite()).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_raise(bad):
    with pytest.raises(ValueError, match="the weight holds NaN or infinite values"):
        weight_scales(torch.tensor([[1.0, bad]]), 0)


@given(weights, st.floats(1e-6, 10.0))
def test_biases_lie_on_the_accumulators_grid(weight, input_scale):
    w = random_weight(*weight)
    bias, scales = w.reshape(w.shape[0], -1)[:, 0] * 3, weight_scales(w, 0)
    moved = round_bias(bias, scales, input_scale)
    step = scales.double() * input_scale
    slack = bias.abs().double() * 2.0**-23  # the result is a float32 number
    assert bool(((moved.double() - bias.double()).abs() <= step / 2 + slack).all())
    assert bool(((moved.double() / step).round() * step - moved.double()).abs().le(slack).all())


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 20))
def test_groups_match_a_plain_loop(seed, group, width):
    values = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(seed))
    values[0, 0] = 0.0
    wanted = np.empty(values.shape, dtype=np.float32)
    for row in np.ndindex(2, 3):
        for start in range(0, width, group):
            part = values[row][start : start + group].numpy()
            scale = np.float32(max(np.abs(part).max() / np.float32(127), SMALLEST_SCALE))
            wanted[row][start : start + group] = np.rint(part / scale) * scale
    np.testing.assert_array_equal(fake_quantize_groups(values, group).numpy(), wanted)
