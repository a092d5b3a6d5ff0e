"""Least squares from moments: against numpy on the rows themselves."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional.leastsquares import Moments, solve, solve_through_origin


def data(rows: int, inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inputs, generator=made, dtype=torch.float64) + 1.0
    mixed = x @ torch.randn(inputs, inputs, generator=made, dtype=torch.float64)
    y = torch.randn(rows, outputs, generator=made, dtype=torch.float64) - 2.0
    return mixed, y, torch.randn(outputs, inputs, generator=made, dtype=torch.float64)


def moments(x: Tensor, y: Tensor, pieces: int = 1) -> Moments:
    found = Moments.of(x.shape[1], y.shape[1])
    for one, other in zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True):
        found.add_(one, other)
    return found


def objective(x: Tensor, y: Tensor, w: Tensor, b: Tensor, start: Tensor, ridge: float) -> float:
    """The formula of the module's docstring, per row."""
    residual = (y - x @ w.T - b).square().sum(1).mean()
    pull = ((w - start).square() * x.var(0, correction=0)).sum()
    return float(residual + ridge * pull)


problems = st.tuples(st.integers(20, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))


@given(problems, st.integers(1, 4))
def test_without_ridge_it_is_numpys_least_squares(problem, pieces):
    x, y, start = data(*problem)
    weights, bias = solve(moments(x, y, pieces), start, 0.0)
    design = np.hstack([x.numpy(), np.ones((len(x), 1))])
    wanted, *_ = np.linalg.lstsq(design, y.numpy(), rcond=None)
    # Normal equations lose half of the digits: 1e-16 times the squared condition of these, below 1e8, leaves 1e-8.
    scale = max(1.0, float(np.linalg.cond(design)) ** 2) * 1e-13
    np.testing.assert_allclose(weights.numpy(), wanted[:-1].T, rtol=0, atol=scale)
    np.testing.assert_allclose(bias.numpy(), wanted[-1], rtol=0, atol=scale * 10)


@given(problems, st.sampled_from([1e-3, 0.1, 10.0]))
def test_with_ridge_it_is_numpys_least_squares_with_rows_for_the_pull(problem, ridge):
    x, y, start = data(*problem)
    weights, bias = solve(moments(x, y), start, ridge)
    centred, wanted = x - x.mean(0), y - y.mean(0)
    pull = torch.diag((ridge * len(x) * x.var(0, correction=0)).sqrt())
    rows, right = torch.cat([centred, pull]), torch.cat([wanted, pull @ start.T])
    found, *_ = np.linalg.lstsq(rows.numpy(), right.numpy(), rcond=None)
    # Means are taken out of sums of squares here: what that costs is in the condition of the rows with their mean.
    design = np.hstack([x.numpy(), np.ones((len(x), 1))])
    worst = max(float(np.linalg.cond(matrix)) for matrix in (rows.numpy(), design))
    scale = max(1.0, worst**2) * max(1.0, float(np.abs(found).max())) * 1e-13
    np.testing.assert_allclose(weights.numpy(), found.T, rtol=0, atol=scale)
    torch.testing.assert_close(bias, y.mean(0) - weights @ x.mean(0), rtol=0, atol=1e-9)


@given(problems, st.sampled_from([1e-3, 1.0]))
def test_no_neighbour_is_better(problem, ridge):
    x, y, start = data(*problem)
    weights, bias = solve(moments(x, y), start, ridge)
    best = objective(x, y, weights, bias, start, ridge)
    made = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-1):
        w = weights + size * torch.randn(weights.shape, generator=made, dtype=torch.float64)
        b = bias + size * torch.randn(bias.shape, generator=made, dtype=torch.float64)
        assert objective(x, y, w, b, start, ridge) >= best * (1 - 1e-12)


def test_what_can_be_reached_is_reached():
    x, _, wanted = data(40, 4, 3, 0)
    weights, bias = solve(moments(x, x @ wanted.T + 1.5), torch.zeros_like(wanted), 0.0)
    torch.testing.assert_close(weights, wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(bias, torch.full((3,), 1.5, dtype=torch.float64), rtol=1e-8, atol=1e-7)


def test_inputs_that_never_vary_keep_their_weight():
    x, y, start = data(40, 3, 2, 0)
    x[:, 1] = 7.0
    weights, bias = solve(moments(x, y), start, 1e-3)
    torch.testing.assert_close(weights[:, 1], start[:, 1], rtol=0, atol=1e-9)
    torch.testing.assert_close(bias, y.mean(0) - weights @ x.mean(0), rtol=0, atol=1e-9)
    others, _ = solve(moments(x[:, [0, 2]], y), start[:, [0, 2]], 1e-3)
    torch.testing.assert_close(weights[:, [0, 2]], others, rtol=1e-6, atol=1e-8)


def test_a_strong_pull_leaves_the_start_and_moves_the_bias():
    x, y, start = data(40, 3, 2, 0)
    weights, bias = solve(moments(x, y), start, 1e9)
    torch.testing.assert_close(weights, start, rtol=0, atol=1e-6)
    torch.testing.assert_close(bias, (y - x @ start.T).mean(0), rtol=0, atol=1e-5)


def test_units_of_an_input_do_not_matter():
    x, y, start = data(40, 3, 2, 0)
    units = torch.tensor([1.0, 1000.0, 0.01], dtype=torch.float64)
    plain, _ = solve(moments(x, y), start, 0.1)
    scaled, _ = solve(moments(x * units, y), start / units, 0.1)
    torch.testing.assert_close(scaled * units, plain, rtol=1e-6, atol=1e-8)


def test_the_type_of_the_weights_stays():
    x, y, start = data(40, 3, 2, 0)
    weights, bias = solve(moments(x.float(), y.float()), start.float(), 0.1)
    assert weights.dtype == bias.dtype == torch.float32


def test_through_the_origin_is_ridge_regression_with_extra_rows():
    """The ridge written as rows of data: sqrt(l d_j) e_j with the answer sqrt(l d_j) W0_j."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64) + 1
    y, start = x @ torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.ones(3, 5, dtype=torch.float64)
    pulls = (0.3 * x.square().sum(0)).sqrt()
    rows, answers = torch.cat([x, torch.diag(pulls)]), torch.cat([y, pulls[:, None] * start.T])
    wanted = torch.linalg.lstsq(rows, answers).solution.T
    torch.testing.assert_close(solve_through_origin(x.T @ x, y.T @ x, start, 0.3), wanted)


def test_through_the_origin_leaves_weights_of_silent_inputs():
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    y, start = torch.tensor([[3.0], [6.0]]), torch.tensor([[0.0, 7.0]])
    fitted = solve_through_origin(x.T @ x, y.T @ x, start, 0.0)
    torch.testing.assert_close(fitted, torch.tensor([[3.0, 7.0]]))


def test_through_the_origin_inside_a_mask_every_row_has_its_own_system():
    x, y, start = data(60, 9, 4, 1)
    alive = torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) < 0.5
    alive[0] = False
    x[:, 2] = 0
    got = solve_through_origin(x.T @ x, y.T @ x, start, 0.1, alive)
    assert bool((got[~alive] == 0).all())
    for row in range(1, 4):
        kept = alive[row] & (x != 0).any(0)
        inside = x[:, kept].double()
        pull = 0.1 * inside.square().sum(0)
        left = inside.T @ inside + torch.diag(pull)
        wanted = torch.linalg.solve(left, inside.T @ y[:, row].double() + pull * start[row, kept].double())
        torch.testing.assert_close(got[row, kept].double(), wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(got[row, alive[row] & ~kept], start[row, alive[row] & ~kept])
    everything = torch.ones_like(alive)
    torch.testing.assert_close(
        solve_through_origin(x.T @ x, y.T @ x, start, 0.1, everything),
        solve_through_origin(x.T @ x, y.T @ x, start, 0.1),
        rtol=1e-4,
        atol=1e-5,
    )
