"""Low-rank factors of matrices and convolutions, against numpy and the theory's equalities and bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import spatial, svd, tucker
from lissom.functional.hooi import unfolding
from lissom.functional.svd import output_error
from lissom.functional.whitening import damped_inputs

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
kernels = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 999))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(n: int, seed: int = 0, rows: int | None = None) -> Tensor:
    """Second moment of correlated inputs of very different sizes."""
    x = normal(rows or 3 * n, n, seed=seed + 1) @ normal(n, n, seed=seed + 2)
    x = x * torch.logspace(0, -2, n, dtype=torch.float64)
    return x.T @ x


@given(sizes)
def test_the_error_is_what_the_discarded_singular_values_hold(size):
    m, n, seed = size
    w = normal(m, n, seed=seed)
    values = np.linalg.svd(w.numpy(), compute_uv=False)
    for rank in range(1, min(m, n) + 1):
        left, right = svd.factors(w, rank)
        assert left.shape == (m, rank)
        error = float((w - left @ right).square().sum())
        assert error == pytest.approx(float((values[rank:] ** 2).sum()), abs=1e-12 * (values**2).sum())
        torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


@given(sizes)
def test_aware_factors_are_those_of_the_whitened_matrix(size):
    """Against the textbook way: whiten by a square root of C, cut, and unwhiten."""
    m, n, seed = size
    w, c = normal(m, n, seed=seed), moment(n, seed)
    root = np.linalg.cholesky(c.numpy() + 1e-12 * np.eye(n) * c.diagonal().mean().item())
    u, s, v = np.linalg.svd(w.numpy() @ root, full_matrices=False)
    outputs = w @ c @ w.T
    found = svd.principal(w, outputs)[1].numpy()
    assert np.abs(found - s).max() <= 2 * math.sqrt(svd.DAMPING) * s.max()
    total = (s**2).sum()
    for rank in range(1, min(m, n) + 1):
        textbook = (u[:, :rank] * s[:rank]) @ v[:rank] @ np.linalg.inv(root)
        left, right = svd.aware_factors(w, outputs, rank)
        mine = output_error(w - left @ right, c)
        assert mine <= output_error(w - torch.from_numpy(textbook), c) + 2 * svd.DAMPING * total
        assert mine == pytest.approx((s[rank:] ** 2).sum(), abs=2 * svd.DAMPING * total)


@given(sizes)
def test_aware_is_never_worse_than_plain_on_its_data(size):
    m, n, seed = size
    w, c = normal(m, n, seed=seed), moment(n, seed)
    outputs = w @ c @ w.T
    for rank in range(1, min(m, n) + 1):
        plain, aware = svd.factors(w, rank), svd.aware_factors(w, outputs, rank)
        allowed = output_error(w - plain.left @ plain.right, c) + 2 * svd.DAMPING * float(outputs.trace())
        assert output_error(w - aware.left @ aware.right, c) <= allowed


def test_aware_beats_plain_where_inputs_differ():
    w, c = normal(12, 20), moment(20)
    outputs = w @ c @ w.T
    plain, aware = svd.factors(w, 4), svd.aware_factors(w, outputs, 4)
    assert output_error(w - aware.left @ aware.right, c) < 0.5 * output_error(w - plain.left @ plain.right, c)


@pytest.mark.parametrize(("m", "n"), [(6, 4), (4, 6), (5, 5), (1, 3), (3, 1)])
def test_full_rank_gives_the_matrix_back_even_where_the_data_are_few(m, n):
    w, c = normal(m, n), moment(n, rows=2)
    for left, right in (svd.factors(w, min(m, n)), svd.aware_factors(w, w @ c @ w.T, min(m, n))):
        torch.testing.assert_close(left @ right, w, rtol=0, atol=1e-5)


def test_what_is_zero_stays_zero():
    for found in (svd.factors(torch.zeros(3, 4), 2), svd.aware_factors(torch.zeros(3, 4), torch.zeros(3, 3), 2)):
        assert bool(found.left.isfinite().all())
        assert torch.equal(found.left @ found.right, torch.zeros(3, 4, dtype=torch.float64))


def test_values_without_squaring_are_exact_where_those_of_a_gram_matrix_are_not():
    u, v = torch.linalg.qr(normal(6, 6)).Q, torch.linalg.qr(normal(6, 6, seed=1)).Q
    wanted = torch.tensor([1.0, 1e-3, 1e-6, 1e-9, 1e-11, 1e-13], dtype=torch.float64)
    w = (u * wanted) @ v
    torch.testing.assert_close(svd.decompose(w)[1], wanted, rtol=0, atol=1e-15)
    squared = svd.principal(w, w @ w.T)[1]
    torch.testing.assert_close(squared, wanted * math.sqrt(1 + svd.DAMPING), rtol=0, atol=3e-8)
    assert float((squared - wanted)[-1].abs()) > 1e-13 or float(squared[-1]) == 0.0


# Spatial ------------------------------------------------------------------------------------------------------


@given(kernels)
def test_spatial_error_is_what_the_discarded_singular_values_hold(size):
    w = normal(*size[:4], seed=size[4])
    rows = np.transpose(w.numpy(), (0, 3, 1, 2)).reshape(w.shape[0] * w.shape[3], -1)
    values = np.linalg.svd(rows, compute_uv=False)
    np.testing.assert_allclose(spatial.singular_values(w).numpy(), values, rtol=0, atol=1e-10)
    for rank in range(1, len(values) + 1):
        error = float((w - spatial.spatial(w, rank).weight()).square().sum())
        assert error == pytest.approx(float((values[rank:] ** 2).sum()), abs=1e-12 * (values**2).sum())


def test_column_then_row_is_the_kernel():
    w, x = normal(4, 3, 3, 2), normal(2, 3, 7, 8)
    column, row = spatial.spatial(w, 8)
    two = torch.conv2d(torch.conv2d(x, column, padding=(1, 0)), row, padding=(0, 1))
    torch.testing.assert_close(two, torch.conv2d(x, w, padding=(1, 1)))


@given(kernels)
def test_aware_spatial_is_never_worse_and_whole_at_full_rank(size):
    w = normal(*size[:4], seed=size[4])
    c = moment(w[0].numel(), size[4])
    most = min(w.shape[0] * w.shape[3], w.shape[1] * w.shape[2])
    for rank in range(1, most + 1):
        plain, aware = (
            one.weight().flatten(1) for one in (spatial.spatial(w, rank), spatial.aware_spatial(w, c, rank))
        )
        allowed = output_error(w.flatten(1) - plain, c) + 2 * svd.DAMPING * float(w.square().sum() * c.trace())
        assert output_error(w.flatten(1) - aware, c) <= allowed
    torch.testing.assert_close(aware, w.flatten(1), rtol=0, atol=1e-5)


# Tucker-2 -----------------------------------------------------------------------------------------------------


@given(kernels, st.integers(1, 6), st.integers(1, 5))
def test_tucker_keeps_the_bound_of_hosvd(size, out_rank, in_rank):
    w = normal(*size[:4], seed=size[4])
    ranks = min(out_rank, w.shape[0]), min(in_rank, w.shape[1])
    found = tucker.tucker(w, ranks)
    by_output, by_input = tucker.spectra(w)
    bound = float(by_output[ranks[0] :].square().sum() + by_input[ranks[1] :].square().sum())
    error = float((w - found.weight()).square().sum())
    assert error <= bound + 1e-10 * float(w.square().sum())
    # Either unfolding alone costs at least what it leaves out.
    least = max(float(by_output[ranks[0] :].square().sum()), float(by_input[ranks[1] :].square().sum()))
    assert error >= least - 1e-10 * float(w.square().sum())


def test_tucker_sweeps_are_better_than_their_start():
    w = normal(8, 7, 3, 3)
    u = torch.linalg.svd(unfolding(w, 0)).U[:, :3]
    v = torch.linalg.svd(unfolding(w, 1)).U[:, :3]
    start = torch.einsum("oikl,op,iq,ap,bq->abkl", w, u, v, u, v)
    found = tucker.tucker(w, (3, 3)).weight()
    assert float((w - found).square().sum()) < float((w - start).square().sum()) * (1 - 1e-4)


def test_three_convolutions_are_the_kernel():
    w, x = normal(5, 4, 3, 3), normal(2, 4, 6, 6)
    outputs, core, inputs = tucker.tucker(w, (5, 4))
    reduced = torch.conv2d(x, inputs.T[:, :, None, None])
    inner = torch.conv2d(reduced, core, padding=1, stride=2)
    three = torch.conv2d(inner, outputs[:, :, None, None])
    torch.testing.assert_close(three, torch.conv2d(x, w, padding=1, stride=2))


@given(kernels, st.integers(1, 6), st.integers(1, 5))
def test_aware_tucker_is_never_worse(size, out_rank, in_rank):
    w = normal(*size[:4], seed=size[4])
    c = moment(w[0].numel(), size[4])
    ranks = min(out_rank, w.shape[0]), min(in_rank, w.shape[1])
    plain, aware = (one.weight().flatten(1) for one in (tucker.tucker(w, ranks), tucker.aware_tucker(w, c, ranks)))
    allowed = output_error(w.flatten(1) - plain, c) + 2 * svd.DAMPING * float(w.square().sum() * c.trace())
    assert output_error(w.flatten(1) - aware, c) <= allowed


@given(kernels)
def test_aware_tucker_is_whole_at_full_rank(size):
    w = normal(*size[:4], seed=size[4])
    c = moment(w[0].numel(), size[4], rows=3)
    found = tucker.aware_tucker(w, c, (w.shape[0], w.shape[1])).weight()
    torch.testing.assert_close(found, w, rtol=0, atol=1e-5)


def test_no_neighbour_of_the_regression_is_better():
    """Given V, the closed form is the optimum over U and G."""
    w, c = normal(5, 4, 2, 2), moment(16)
    found = tucker.aware_tucker(w, c, (2, 2))
    best = output_error((w - found.weight()).flatten(1), damped_inputs(c))
    for seed in range(20):
        step = 1e-3
        moved = tucker.Tucker(
            found.outputs + step * normal(*found.outputs.shape, seed=seed),
            found.core + step * normal(*found.core.shape, seed=seed + 99),
            found.inputs,
        )
        assert output_error((w - moved.weight()).flatten(1), damped_inputs(c)) >= best


@pytest.mark.parametrize("size", [(6, 40), (40, 6), (5, 3, 3, 3)])
def test_values_and_factors_of_wide_matrices_are_exact_to_the_root_of_rounding(size):
    """Against LAPACK's decomposition, which squares nothing; one of the singular values is nothing."""
    w = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).flatten(1)
    w[-1] = w[0]
    wanted = np.linalg.svd(w.numpy(), compute_uv=False)
    root = math.sqrt(len(wanted) * torch.finfo(torch.float64).eps)
    np.testing.assert_allclose(svd.singular_values(w).numpy(), wanted, rtol=0, atol=root * wanted[0])
    for rank in (1, 3, len(wanted)):
        left, right = svd.factors(w, rank)
        error = float((w - left @ right).square().sum())
        allowed = len(wanted) * torch.finfo(torch.float64).eps * float((wanted**2).sum())
        assert float((wanted[rank:] ** 2).sum()) - allowed <= error <= float((wanted[rank:] ** 2).sum()) + allowed
        torch.testing.assert_close(svd.leading(w, rank).T @ svd.leading(w, rank), torch.eye(rank).double())


def test_tucker_in_single_precision_is_as_good_as_in_double(monkeypatch):
    w = torch.randn(24, 20, 3, 3, generator=torch.Generator().manual_seed(0))
    single = tucker.tucker(w, (12, 10))
    monkeypatch.setattr(tucker, "SINGLE", math.inf)
    double = tucker.tucker(w, (12, 10))
    errors = [float((w.double() - one.weight()).norm() / w.norm()) for one in (single, double)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    assert errors[0] > 0.3


def test_tucker_finds_a_low_rank_to_rounding():
    """Where nothing is left out float32 would show: double precision is taken by itself."""
    draws = torch.Generator().manual_seed(1)
    core, u, v = (torch.randn(size, generator=draws, dtype=torch.float64) for size in ((3, 2, 3, 3), (9, 3), (8, 2)))
    w = torch.einsum("abyx,oa,ib->oiyx", core, u, v)
    assert float((w - tucker.tucker(w, (3, 2)).weight()).norm() / w.norm()) < 3e-8
