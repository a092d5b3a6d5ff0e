"""CP, Tensor-Train and Kronecker: what has the form is found again, and the theory's bounds hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import cp, kronecker, tensortrain
from lissom.functional.svd import output_error
from lissom.functional.whitening import damped_inputs


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# CP -----------------------------------------------------------------------------------------------------------


def test_cp_finds_what_has_its_rank():
    """Alternating least squares may stop where it hardly moves: of 150 draws it did in two."""
    errors = []
    for rank in range(1, 5):
        for seed in range(10):
            w = torch.einsum("or,ir,yr,xr->oiyx", *(normal(n, rank, seed=seed * 7 + n) for n in (8, 7, 3, 2)))
            found = cp.cp(w, rank)
            errors.append(float((w - found.weight()).norm() / w.norm()))
            torch.testing.assert_close(found.outputs.norm(dim=0), found.inputs.norm(dim=0))
    assert sum(error < 0.02 for error in errors) >= 38
    assert max(errors) < 0.15


def test_cp_error_falls_with_the_rank_and_is_at_least_what_an_unfolding_leaves_out():
    w = normal(6, 5, 3, 3)
    values = np.linalg.svd(w.numpy().reshape(6, -1), compute_uv=False)
    errors = [float((w - cp.cp(w, rank).weight()).square().sum()) for rank in (1, 2, 4, 6, 12)]
    assert errors == sorted(errors, reverse=True)
    for rank, error in zip((1, 2, 4), errors[:3], strict=True):
        assert error >= (values[rank:] ** 2).sum() - 1e-9


def test_terms_do_not_grow_and_cancel_where_no_best_solution_exists():
    """a a b + a b a + b a a has rank 3 and is the limit of tensors of rank 2 whose terms grow without bound."""
    a, b = normal(4), normal(4, seed=1)
    w = sum(torch.einsum("o,i,k->oik", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))
    found = cp.cp(w, 2)
    assert float((w - found.weight()).norm() / w.norm()) < 0.1
    assert found.size < 1000


def test_cp_layers_are_the_kernel():
    found = cp.cp(normal(5, 4, 3, 3), 6)
    x = normal(2, 4, 6, 6)
    inner = torch.conv2d(x, found.inputs.T[:, :, None, None])
    inner = torch.conv2d(inner, found.kernel.unsqueeze(1), padding=1, groups=6)
    three = torch.conv2d(inner, found.outputs[:, :, None, None])
    torch.testing.assert_close(three, torch.conv2d(x, found.weight(), padding=1))


def test_aware_cp_has_the_better_outputs():
    w = normal(6, 4, 3, 3)
    x = normal(200, 36, seed=5) @ normal(36, 36, seed=6)
    c = x.T @ x
    plain, aware = cp.cp(w, 4), cp.aware_cp(w, c, 4)
    errors = [output_error((w - one.weight()).flatten(1), damped_inputs(c)) for one in (plain, aware)]
    assert errors[1] < errors[0]
    assert torch.equal(plain.inputs, aware.inputs)


# Tensor-Train -------------------------------------------------------------------------------------------------

SHAPES = [((2, 3), (3, 2)), ((2, 2, 2), (3, 1, 2)), ((4,), (5,)), ((2, 3, 2, 2), (2, 2, 2, 3))]


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_tensor_train_is_whole_at_full_rank(outputs, inputs):
    w = normal(math.prod(outputs), math.prod(inputs))
    cores = tensortrain.tensor_train(w, outputs, inputs, 10**6)
    torch.testing.assert_close(tensortrain.restored(cores), w)
    x = normal(5, math.prod(inputs), seed=1)
    torch.testing.assert_close(tensortrain.multiply(cores, x), x @ w.T)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_tensor_train_keeps_its_bound(rank):
    outputs, inputs = (2, 3, 2), (3, 2, 3)
    w = normal(12, 18)
    cores = tensortrain.tensor_train(w, outputs, inputs, rank)
    assert all(core.shape[3] <= rank for core in cores[:-1])
    bound = sum(float(values[rank:].square().sum()) for values in tensortrain.cuts(w, outputs, inputs))
    assert float((w - tensortrain.restored(cores)).square().sum()) <= bound + 1e-9
    x = normal(5, 18, seed=1)
    torch.testing.assert_close(tensortrain.multiply(cores, x), x @ tensortrain.restored(cores).T)


def test_the_entries_are_products_of_small_matrices():
    """The definition, entry by entry."""
    cores = tensortrain.tensor_train(normal(6, 6), (2, 3), (3, 2), 2)
    whole = tensortrain.restored(cores)
    for row in range(6):
        for column in range(6):
            first, second = (row // 3, column // 2), (row % 3, column % 2)
            entry = cores[0][:, first[0], first[1]] @ cores[1][:, second[0], second[1]]
            assert float(entry) == pytest.approx(float(whole[row, column]))


@pytest.mark.parametrize(
    ("outputs", "inputs", "ranks", "text"),
    [
        ((2, 2), (3, 2), 2, "products must be its sides"),
        ((2, 3), (6,), 2, "factors"),
        ((2, 3), (3, 2), (1, 1), "1 ranks"),
    ],
)
def test_sizes_that_do_not_fit_are_explained(outputs, inputs, ranks, text):
    with pytest.raises(ValueError, match=text):
        tensortrain.tensor_train(normal(6, 6), outputs, inputs, ranks)


# Kronecker ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_a_kronecker_product_is_found_again(m1, n1, m2, n2, seed):
    w = torch.from_numpy(np.kron(normal(m1, n1, seed=seed).numpy(), normal(m2, n2, seed=seed + 1).numpy()))
    a, b = kronecker.kronecker(w, (m1, n1), 1)
    np.testing.assert_allclose(np.kron(a[0].numpy(), b[0].numpy()), w.numpy(), rtol=0, atol=1e-9)
    torch.testing.assert_close(kronecker.restored(a, b), w)
    x = normal(4, n1 * n2, seed=seed + 2)
    torch.testing.assert_close(kronecker.multiply(a, b, x), x @ w.T)


def test_the_error_is_what_the_rearranged_matrix_leaves_out():
    w = normal(6, 8)
    values = np.linalg.svd(kronecker.rearranged(w, (3, 2)).numpy(), compute_uv=False)
    for terms in range(1, len(values) + 1):
        error = float((w - kronecker.restored(*kronecker.kronecker(w, (3, 2), terms))).square().sum())
        assert error == pytest.approx(float((values[terms:] ** 2).sum()), abs=1e-9)
    with pytest.raises(ValueError, match="does not divide into 4 x 2"):
        kronecker.kronecker(w, (4, 2), 1)
