"""Learned step sizes: the equations of LSQ and LSQ+ one value at a time, finite differences of the surrogate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.affine import Affine, affine, fake_quantize, limits_of, nested
from lissom.functional.stepsize import fake_quantize_learned, gain_of

GRIDS = {"signed": (-8, 7, 0.0), "unsigned": (0, 15, 0.0), "free": (0, 15, 5.2), "ternary": (-1, 1, 0.0)}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def by_hand(x: float, s: float, z: float, low: int, high: int) -> tuple[float, float, float, float]:
    """x̂ and its slopes by x, s and z, from Esser et al. equations 1 to 3 and Bhalgat et al. equation 5."""
    v, whole = x / s, round(z)
    if v + whole <= low:
        return (low - whole) * s, 0.0, low - whole, -s
    if v + whole >= high:
        return (high - whole) * s, 0.0, high - whole, -s
    return round(v) * s, 1.0, round(v) - v, 0.0


@every_grid
def test_values_and_gradients_are_those_of_the_papers(grid):
    low, high, z = grid
    x, upstream = drawn(0, 40).requires_grad_(), drawn(1, 40)
    s, zero = torch.tensor([0.31], dtype=torch.float64, requires_grad=True), torch.tensor([z], requires_grad=True)
    made = fake_quantize_learned(x, s, zero, low, high, 0.25)
    made.backward(upstream)
    rows = np.array([by_hand(float(one), 0.31, z, low, high) for one in x.detach()])
    np.testing.assert_allclose(made.detach(), rows[:, 0], rtol=1e-12)
    np.testing.assert_allclose(x.grad, upstream.numpy() * rows[:, 1], rtol=1e-12)
    np.testing.assert_allclose(s.grad, [0.25 * float(upstream.numpy() @ rows[:, 2])], rtol=1e-9)
    np.testing.assert_allclose(zero.grad, [0.25 * float(upstream.numpy() @ rows[:, 3])], rtol=1e-6)
    assert (rows[:, 1] == 0).any()
    assert (rows[:, 1] == 1).any()


@every_grid
def test_gradients_are_finite_differences_of_the_surrogate(grid):
    """Straight-through: what rounding adds is held as it is, everything else moves."""
    low, high, z = grid
    x, upstream = drawn(2, 6, 5), drawn(3, 6, 5)
    s = torch.linspace(0.2, 0.9, 6, dtype=torch.float64)[:, None].requires_grad_()
    zero = torch.full((), z, dtype=torch.float64, requires_grad=True)
    fake_quantize_learned(x, s, zero, low, high, 1.0).backward(upstream)
    here = s.detach()
    added = torch.round(x / here) - x / here

    def surrogate(scale: torch.Tensor, place: float) -> float:
        whole = round(z) + (place - z)
        steps = x / scale + whole
        inside = (x / here + round(z) > low) & (x / here + round(z) < high)
        made = torch.where(inside, steps + added, steps.clamp(low, high)) - whole
        return float((made * scale * upstream).sum())

    step = 1e-6
    for row in range(6):
        nudge = torch.zeros(6, 1, dtype=torch.float64)
        nudge[row] = step
        slope = (surrogate(here + nudge, z) - surrogate(here - nudge, z)) / (2 * step)
        assert float(s.grad[row]) == pytest.approx(slope, abs=1e-7)
    slope = (surrogate(here, z + step) - surrogate(here, z - step)) / (2 * step)
    assert float(zero.grad) == pytest.approx(slope, abs=1e-7)


def test_a_weight_has_a_gradient_for_every_channel_of_its_own():
    weight = drawn(4, 3, 2, 2, 2)
    s = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64)
    for channel in range(3):
        alone = s[channel : channel + 1].clone().requires_grad_()
        fake_quantize_learned(weight[channel], alone, torch.zeros(()), -7, 7, 1.0).square().sum().backward()
        together = s.clone().requires_grad_()
        made = fake_quantize_learned(weight, together.reshape(3, 1, 1, 1), torch.zeros(()), -7, 7, 1.0)
        made.square().sum().backward()
        assert float(together.grad[channel]) == pytest.approx(float(alone.grad))


def test_a_scale_moves_as_fast_as_the_weights_relative_to_itself():
    """Section 2.2: R = (dL/ds / s) / (|dL/dw| / |w|) is about 1 with the gain, about sqrt(n q) without."""
    weight = drawn(5, 4096).requires_grad_()
    s = torch.tensor([2 * float(weight.detach().abs().mean()) / math.sqrt(7)], dtype=torch.float64, requires_grad=True)
    fake_quantize_learned(weight, s, torch.zeros(()), -7, 7, gain_of(4096, 7)).backward(drawn(6, 4096))
    relative = abs(float((s.grad / s).detach())) / float(weight.grad.norm() / weight.detach().norm())
    assert 0.05 < relative < 5


real = st.floats(-50, 50, width=32)


@given(
    st.lists(real, min_size=1, max_size=20),
    real,
    real,
    st.sampled_from(["int8", "uint8"]),
    st.booleans(),
    st.sampled_from([8, 4]),
)
def test_rounding_twice_is_rounding_once(values, a, b, dtype, symmetric, bits):
    grid = affine(min(a, b), max(a, b), dtype, symmetric=symmetric, bits=bits)
    x = torch.tensor(values)
    zero = torch.tensor([float(grid.zero_point)])
    once = fake_quantize_learned(x, torch.tensor([grid.scale]), zero, *grid.limits, 1.0)
    assert torch.equal(fake_quantize_learned(once, torch.tensor([grid.scale]), zero, *grid.limits, 1.0), once)
    assert len(set(torch.round(once / grid.scale).tolist())) <= 2**bits
    inside = (x >= grid.low) & (x <= grid.high)
    slack = 2 * 256 * 2.0**-23 * grid.scale
    assert bool(((x - once).abs()[inside] <= grid.scale / 2 + slack).all())


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("scale", [1.0, 0.0371, 12.5])
def test_by_way_of_256_steps_the_16_are_the_same(dtype, scale):
    """Half way between two of the 16 steps, where two roundings could differ, no value is looked at."""
    low, high = limits_of(dtype, 4)
    x = (torch.arange(-20 * 64, 20 * 64) + 0.5) / 64 * scale
    for zero in range(low, high + 1):
        grid = Affine(dtype=dtype, scale=scale, zero_point=zero, bits=4)
        wide = nested(grid)
        assert wide.limits == limits_of(dtype, 8)
        assert torch.equal(fake_quantize(fake_quantize(x, wide), grid), fake_quantize(x, grid))
        seen = set(torch.round(fake_quantize(x, grid) / scale).int().tolist())
        assert seen == set(range(low - zero, high - zero + 1))
        if zero == low:
            # Clipped by the wide grid alone.
            assert float(fake_quantize(x, wide).max()) == pytest.approx(grid.high, rel=1e-6)


def test_the_gain_is_that_of_the_paper():
    assert gain_of(1152, 7) == 1 / math.sqrt(1152 * 7)
    assert gain_of(0, 0) == 1.0
