"""GPTQ and AWQ: an independent solver, brute force, exact cases."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.awq import STRENGTHS, awq_scales
from lissom.functional.gptq import gptq, gptq_by_row, output_error, row_errors
from lissom.functional.weightgrid import grid


def problem(rows: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and X'X of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n, n, generator=generator) + 2 * torch.ones(n, n)
    inputs = torch.randn(4 * n, n, generator=generator) @ mixing
    return torch.randn(rows, n, generator=generator), inputs.T @ inputs


def one_by_one(weight, moments, made, damping, order):
    """Columns in order; after each, those left are the least-squares answer to all that are fixed. No factorization."""
    n = weight.shape[1]
    hessian = moments.double() + damping * float(moments.diagonal().mean()) * torch.eye(n, dtype=torch.float64)
    found = weight.double().clone()
    for i, j in enumerate(order):
        found[:, j] = made.rounded(found.float())[:, j].double()
        fixed, free = list(order[: i + 1]), list(order[i + 1 :])
        if free:
            change = (found - weight.double())[:, fixed]
            answer = -torch.linalg.solve(hessian[free][:, free], hessian[free][:, fixed] @ change.T).T
            found[:, free] = weight.double()[:, free] + answer
    return made.steps(found.float())


@pytest.mark.parametrize("block", [1, 4, 128])
@pytest.mark.parametrize("by_energy", [False, True])
def test_agrees_with_solving_for_the_columns_left_after_each_one(block, by_energy):
    weight, moments = problem(3, 10)
    made = grid(weight, 4, group=4, symmetric=False)
    order = moments.diagonal().argsort(descending=True, stable=True).tolist() if by_energy else list(range(10))
    got = gptq(weight, moments, made, block=block, damping=0.01, by_energy=by_energy)
    assert torch.equal(got, one_by_one(weight, moments, made, 0.01, order))
    assert not torch.equal(got, made.steps(weight))


@given(st.integers(0, 2**16))
def test_uncorrelated_inputs_are_rounded_to_the_nearest(seed):
    weight, _ = problem(3, 6, seed)
    made = grid(weight, 3)
    energy = torch.rand(6, generator=torch.Generator().manual_seed(seed)) + 0.1
    energy[seed % 6] = 0.0
    assert torch.equal(gptq(weight, torch.diag(energy), made), made.steps(weight))


def test_no_better_than_the_best_of_everything_on_the_grid():
    every = torch.tensor(list(itertools.product(range(-3, 4), repeat=5)), dtype=torch.float32)
    for seed in range(6):
        weight, moments = problem(1, 5, seed)
        made = grid(weight, 3)
        changes = (made.scale * every - weight).double()
        best = float(((changes @ moments.double()) * changes).sum(1).amin())
        assert best <= output_error(made.restored(gptq(weight, moments, made)) - weight, moments) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_loses_far_less_than_the_nearest_on_correlated_inputs(seed):
    weight, moments = problem(8, 48, seed)
    made = grid(weight, 4)
    found = output_error(made.restored(gptq(weight, moments, made)) - weight, moments)
    assert found < 0.3 * output_error(made.rounded(weight) - weight, moments)


def test_inputs_that_are_always_zero_change_nothing():
    weight, moments = problem(2, 5)
    made = grid(weight, 4)
    moments[2], moments[:, 2] = 0.0, 0.0
    kept = [0, 1, 3, 4]
    got = gptq(weight, moments, made)
    assert torch.equal(got[:, 2], made.steps(weight)[:, 2])
    alone = gptq(weight[:, kept], moments[kept][:, kept], grid(weight, 4))
    assert torch.equal(got[:, kept], alone)
    assert torch.equal(gptq(weight, torch.zeros(5, 5), made), made.steps(weight))


def test_output_error_is_that_of_the_outputs():
    generator = torch.Generator().manual_seed(0)
    inputs, change = torch.randn(20, 4, generator=generator), torch.randn(3, 4, generator=generator)
    wanted = float((inputs @ change.T).square().sum())
    assert output_error(change, inputs.T @ inputs) == pytest.approx(wanted, rel=1e-5)


def test_awq_is_the_best_of_its_strengths_and_finds_the_loud_inputs():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 16, generator=generator)
    inputs[:, 3] *= 40
    weight = torch.randn(8, 16, generator=generator)

    def make(scaled):
        return grid(scaled, 3, group=8, symmetric=False)

    magnitude, moments = inputs.abs().mean(0), inputs.T @ inputs
    found = awq_scales(weight, magnitude, moments, make)
    outputs = []
    for strength in STRENGTHS:
        scales = magnitude.pow(strength)
        scales = scales / (scales.max() * scales.min()).sqrt()
        restored = make(weight * scales).rounded(weight * scales) / scales
        outputs.append(float((inputs @ (restored - weight).T).double().square().sum()))
    assert found.error == pytest.approx(min(outputs), rel=1e-4)
    assert found.error < 0.5 * outputs[0]
    assert int(found.scales.argmax()) == 3
    assert found.strength > 0


def test_awq_leaves_plain_rounding_where_nothing_is_gained():
    weight = torch.tensor([[3.0, -1.0], [-2.0, 3.0]])
    found = awq_scales(weight, torch.ones(2), torch.eye(2), lambda scaled: grid(scaled, 3))
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert torch.equal(found.scales, torch.ones(2))


@given(st.integers(0, 2**16), st.sampled_from([4, 3, 2]), st.sampled_from([None, 4]), st.booleans())
def test_no_row_is_worse_than_rounded_to_the_nearest(seed, bits, group, symmetric):
    weight, moments = problem(4, 10, seed)
    made = grid(weight, bits, group=group, symmetric=symmetric)
    found = gptq_by_row(weight, moments, made)
    errors = row_errors(made.restored(found) - weight, moments)
    nearest = row_errors(made.rounded(weight) - weight, moments)
    assert bool((errors <= nearest).all())
    assert bool(((found >= made.low) & (found <= made.high) & (found == found.round())).all())


def test_a_row_that_gptq_spoils_is_rounded_to_the_nearest():
    """Of many small problems some have such a row; there the nearest steps are taken, elsewhere GPTQ's."""
    kept = {True: 0, False: 0}
    for seed in range(40):
        weight, moments = problem(2, 4, seed)
        made = grid(weight, 2)
        fitted, near = gptq(weight, moments, made, by_energy=True), made.steps(weight)
        lost = [row_errors(made.restored(steps) - weight, moments) for steps in (fitted, near)]
        found = gptq_by_row(weight, moments, made)
        for row in range(2):
            worse = bool(lost[0][row] > lost[1][row])
            assert torch.equal(found[row], (near if worse else fitted)[row]) or lost[0][row] == lost[1][row]
            kept[worse] += 1
    assert min(kept.values()) > 0


@pytest.mark.parametrize("by_energy", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_pruned_weights_stay_zero_and_are_made_up_for(by_energy, symmetric):
    weight, moments = problem(6, 12, 2)
    alive = torch.rand(6, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    pruned = weight * alive
    made = grid(pruned, 3, symmetric=symmetric)
    got = made.restored(gptq(pruned, moments, made, by_energy=by_energy, alive=alive))
    assert bool((got[~alive] == 0).all())
    without = made.restored(gptq(pruned, moments, made, by_energy=by_energy))
    assert bool((without[~alive] != 0).any()), "it fills zeros where nobody says that they are meant"
    assert output_error(got - pruned, moments) < output_error(made.rounded(pruned) - pruned, moments)
