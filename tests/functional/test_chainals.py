"""Cores fitted in the norm of the data: against least squares by numpy, closed forms, and never a larger error."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import chainals, ring, svd, tensortrain
from lissom.functional.svd import output_error

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(size: int, seed: int = 0) -> Tensor:
    """Of inputs whose axes are of very different sizes."""
    rows = normal(3 * size, size, seed=seed + 1) @ normal(size, size, seed=seed + 2)
    rows = rows * torch.logspace(0, -1.5, size, dtype=torch.float64)
    return rows.T @ rows


def weighing(c: Tensor) -> chainals.Weigh:
    """All axes but the last are what C is of."""
    return lambda difference: (c @ difference.reshape(len(c), -1)).reshape(difference.shape)


@given(shapes, st.integers(1, 4), st.booleans(), st.integers(0, 99))
@settings(max_examples=40)
def test_no_sweep_makes_the_error_larger(sizes, rank, joined, seed):
    t, c = normal(*sizes, seed=seed), moment(prod(sizes[:-1]), seed)
    start = ring.ring_svd(t, ring.ring_ranks(sizes, rank)) if joined else tensortrain.train(t, rank)
    weigh = weighing(c)
    errors = [chainals.error(t, one, weigh) for one in (start, chainals.fitted(t, start, weigh))]
    assert errors[1] <= errors[0]
    swept = chainals.swept(t, start, weigh)
    assert chainals.error(t, swept, weigh) <= errors[0] + 1e-9 * chainals.error(t, [0 * one for one in start], weigh)
    assert [one.shape for one in swept] == [one.shape for one in start]


def test_the_error_is_that_of_the_outputs():
    t, c = normal(4, 3, 5), moment(12)
    cores = tensortrain.train(t, 2)
    difference = (t - tensortrain.joined(cores)).reshape(12, 5).T
    assert chainals.error(t, cores, weighing(c)) == pytest.approx(output_error(difference, c))


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("joined", [False, True])
def test_with_enough_steps_a_core_is_the_least_squares(k, joined):
    """Against numpy: a column for every number of the core, with what it alone makes of C^1/2."""
    t, c = normal(4, 3, 5), moment(12)
    cores = ring.ring_svd(t, (2, 2, 2)) if joined else tensortrain.train(t, (2, 3))
    root = np.linalg.cholesky(c.numpy()).T
    columns = []
    for index in range(cores[k].numel()):
        one = torch.zeros(cores[k].numel(), dtype=torch.float64)
        one[index] = 1.0
        made = ring.joined([*cores[:k], one.reshape(cores[k].shape), *cores[k + 1 :]])
        columns.append((root @ made.numpy().reshape(12, 5)).ravel())
    wanted = (root @ t.numpy().reshape(12, 5)).ravel()
    matrix = np.stack(columns, 1)
    best = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    least = float(((matrix @ best - wanted) ** 2).sum())
    left = t - ring.joined(cores)
    change, moved = chainals._least_squares(left, cores, k, weighing(c), 2000)
    found = [*cores[:k], cores[k] + change, *cores[k + 1 :]]
    assert chainals.error(t, found, weighing(c)) == pytest.approx(least, rel=1e-6)
    torch.testing.assert_close(left - moved, t - ring.joined(found))
    few = chainals._least_squares(left, cores, k, weighing(c), 2)[0]
    halfway = chainals.error(t, [*cores[:k], cores[k] + few, *cores[k + 1 :]], weighing(c))
    assert least < halfway < chainals.error(t, cores, weighing(c))


def test_of_two_axes_it_comes_to_the_closed_form():
    """Two cores are a product of two matrices: data-aware SVD is the optimum."""
    w, c = normal(8, 12), moment(12)
    left, right = svd.aware_factors(w, w @ c @ w.T, 3)
    least = output_error(w - left @ right, c)
    start = tensortrain.train(w.T, 3)
    found = chainals.fitted(w.T, start, weighing(c), sweeps=200)
    assert chainals.error(w.T, start, weighing(c)) > 1.5 * least
    assert chainals.error(w.T, found, weighing(c)) == pytest.approx(least, rel=0.02)


def test_where_all_inputs_are_alike_nothing_is_gained_on_the_optimum():
    w = normal(6, 9)
    start = tensortrain.train(w, 3)
    found = chainals.fitted(w, start, lambda difference: difference)
    torch.testing.assert_close(ring.joined(found), ring.joined(start), rtol=0, atol=1e-8)


def test_what_has_the_form_stays_what_it_is():
    t = tensortrain.joined([normal(1, 4, 2), normal(2, 3, 3, seed=1), normal(3, 5, 1, seed=2)])
    found = chainals.fitted(t, tensortrain.train(t, (2, 3)), weighing(moment(12)))
    torch.testing.assert_close(ring.joined(found), t)
