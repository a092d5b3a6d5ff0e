"""Penalties on coupled channels: values and gradients against loops over numpy numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import penalty
from lissom.functional.penalty import Layout

seeds = st.integers(0, 10_000)


def weights(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A kernel that makes 4 channels, their scale, a matrix that reads each of them at 3 places."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 2, 3, 3), (4,), (5, 12))]
    kernel, scale, matrix = (one.requires_grad_(True) for one in drawn)
    return kernel, scale, matrix


PLACES = np.arange(12).reshape(4, 3)
LAYOUT = Layout(
    source=torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, *(8 + PLACES.ravel())]),
    owner=torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, *np.arange(4).repeat(3)]),
    weights=torch.full((4,), 2.0 * 9 + 1 + 5 * 3, dtype=torch.float64),
    group=torch.tensor([0, 0, 1, 1]),
    groups=2,
)


def energies(kernel: Tensor, scale: Tensor, matrix: Tensor) -> Tensor:
    return penalty.channel_energies(penalty.position_energies([(kernel, (0,)), (scale, (0,)), (matrix, (1,))]), LAYOUT)


def slices(seed: int) -> list[np.ndarray]:
    """All weights of each channel in one row."""
    kernel, scale, matrix = (one.detach().numpy() for one in weights(seed))
    return [np.concatenate([kernel[c].ravel(), [scale[c]], matrix[:, PLACES[c]].ravel()]) for c in range(4)]


def own(gradients: tuple[Tensor, ...], c: int) -> np.ndarray:
    kernel, scale, matrix = (one.numpy() for one in gradients)
    return np.concatenate([kernel[c].ravel(), [scale[c]], matrix[:, PLACES[c]].ravel()])


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_energies_are_sums_of_squares_over_everything_cut_with_a_channel(seed):
    np.testing.assert_allclose(energies(*weights(seed)).detach(), [np.sum(row**2) for row in slices(seed)])


@given(seeds, st.lists(st.floats(0.0, 3.0), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_the_group_lasso_and_its_gradient(seed, strengths):
    found, rows = weights(seed), slices(seed)
    value = penalty.group_lasso(energies(*found), LAYOUT.weights, torch.tensor(strengths, dtype=torch.float64))
    wanted = sum(s * math.sqrt(len(r)) * np.linalg.norm(r) for s, r in zip(strengths, rows, strict=True))
    assert float(value.detach()) == pytest.approx(wanted)
    gradients = torch.autograd.grad(value, found)
    for c, row in enumerate(rows):
        closed = strengths[c] * math.sqrt(len(row)) * row / np.linalg.norm(row)
        np.testing.assert_allclose(own(gradients, c), closed, rtol=1e-9, atol=1e-12)


@given(seeds, st.lists(st.floats(0.0, 3.0), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_weighted_decay_pulls_every_weight_in_proportion(seed, strengths):
    found = weights(seed)
    value = penalty.weighted_decay(energies(*found), torch.tensor(strengths, dtype=torch.float64))
    gradients = torch.autograd.grad(value, found)
    for c, row in enumerate(slices(seed)):
        np.testing.assert_allclose(own(gradients, c), strengths[c] * row, rtol=1e-9, atol=1e-12)


def test_a_channel_of_one_weight_gives_l1():
    scale = torch.tensor([0.5, -2.0, 0.0, 1e-3], requires_grad=True)
    layout = Layout(torch.arange(4), torch.arange(4), torch.ones(4), torch.zeros(4, dtype=torch.long), 1)
    value = penalty.group_lasso(
        penalty.channel_energies(penalty.position_energies([(scale, (0,))]), layout), layout.weights, 0.1
    )
    assert float(value.detach()) == pytest.approx(0.1 * 2.501)
    (gradient,) = torch.autograd.grad(value, scale)
    torch.testing.assert_close(gradient, 0.1 * torch.tensor([1.0, -1.0, 0.0, 1.0]))


def test_an_axis_read_twice_counts_twice():
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert penalty.position_energies([(matrix, (0, 1))]).tolist() == [5.0, 25.0, 10.0, 20.0]


def test_half_precision_is_summed_in_float32():
    weight = torch.full((1, 40_000), 0.01, dtype=torch.bfloat16)
    found = penalty.position_energies([(weight, (0,))])
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(40_000 * float(weight[0, 0]) ** 2, rel=1e-4)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_weakest_of_a_group_is_pulled_hardest(seed):
    size = np.array([np.linalg.norm(row) for row in slices(seed)])
    found = penalty.rising(energies(*weights(seed)), LAYOUT)
    assert not found.requires_grad
    for group in ((0, 1), (2, 3)):
        own = size[list(group)]
        wanted = 2 ** (4 * (own.max() - own) / (own.max() - own.min()))
        np.testing.assert_allclose(found[list(group)], wanted)
        assert sorted(found[list(group)].tolist()) == pytest.approx([1.0, 16.0])


def test_equal_channels_are_pulled_alike():
    assert penalty.rising(torch.full((4,), 2.0), LAYOUT).tolist() == [1.0] * 4


@pytest.mark.parametrize(("steps", "every"), [(100, 10), (95, 10), (7, 10), (1, 1), (30, 1)])
def test_the_growing_strength_ends_at_its_peak_and_never_falls(steps, every):
    found = [penalty.grown(step, steps, every, 2.0) for step in range(steps)]
    assert found == sorted(found)
    assert found[-1] == 2.0
    assert found[0] > 0
    assert len(set(found)) == math.ceil(steps / every)
    assert all(len(set(found[at : at + every])) == 1 for at in range(0, steps, every))
