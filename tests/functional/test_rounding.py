"""AdaRound against all roundings of small layers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lissom.functional.rounding import AdaRound, Rows, adaround
from lissom.functional.weightgrid import grid

FAST = AdaRound(steps=400, rows=128)


def problem(n: int, seed: int, outputs: int = 1) -> tuple[Tensor, Tensor]:
    """A weight and correlated inputs that are not centred, as those behind a ReLU are."""
    generator = torch.Generator().manual_seed(seed)
    inputs = (torch.randn(256, n, generator=generator) @ torch.randn(n, n, generator=generator)).relu()
    return torch.randn(outputs, n, generator=generator), inputs


def brute(weight: Tensor, data: Rows, made) -> list[float]:
    below = torch.floor(weight / made.scales(weight.shape[1]) + made.zeros(weight.shape[1]))
    ups = itertools.product((0.0, 1.0), repeat=weight.shape[1])
    return sorted(data.error(made.restored((below + torch.tensor(up)).clamp(made.low, made.high))) for up in ups)


@pytest.mark.parametrize("relu", [False, True])
def test_between_the_nearest_and_the_best_of_all_roundings(relu):
    best, found, nearest = 0.0, 0.0, 0.0
    for seed in range(8):
        weight, inputs = problem(8, seed)
        made = grid(weight, 3, group=4, symmetric=False)
        data = Rows(inputs, inputs @ weight.T, torch.tensor([0.3]) if relu else None, relu)
        errors = brute(weight, data, made)
        best += errors[0]
        found += data.error(made.restored(adaround(weight, made, data, FAST)))
        nearest += data.error(made.rounded(weight))
    assert best <= found
    assert found - best < 0.3 * (nearest - best)


def test_every_step_is_one_of_the_two_neighbours_and_the_draw_is_repeated():
    weight, inputs = problem(12, 5, outputs=4)
    made = grid(weight, 4)
    data = Rows(inputs, inputs @ weight.T)
    found = adaround(weight, made, data, FAST)
    exact = weight / made.scales(12)
    assert bool(((found == exact.floor().clamp(-7, 7)) | (found == exact.ceil().clamp(-7, 7))).all())
    assert torch.equal(found, adaround(weight, made, data, FAST))
    assert not torch.equal(found, made.steps(weight))


def test_rounded_inputs_are_made_up_for():
    """Wanted are the outputs for other inputs than those that the layer gets now."""
    weight, inputs = problem(10, 7, outputs=3)
    rounded = (inputs / 0.9).round() * 0.9
    made = grid(weight, 3)
    data = Rows(rounded, inputs @ weight.T)
    alone = adaround(weight, made, Rows(inputs, inputs @ weight.T), FAST)
    together = adaround(weight, made, data, FAST)
    assert data.error(made.restored(together)) < data.error(made.restored(alone))


@pytest.mark.parametrize("relu", [False, True])
def test_slope_is_the_gradient(relu):
    weight, inputs = problem(6, 1, outputs=3)
    data = Rows(inputs, inputs @ weight.T, torch.randn(3, generator=torch.Generator().manual_seed(2)), relu)
    moved = (weight + 0.1).requires_grad_()
    rows = torch.arange(100)
    data.gaps(moved, rows).square().sum(1).mean().backward()
    torch.testing.assert_close(data.slope(moved.detach(), rows), moved.grad)


def test_what_rounding_does_not_change_stays():
    weight = torch.tensor([[3.0, -2.0, 1.0]])
    made = grid(weight, 3)
    inputs = torch.ones(4, 3)
    assert torch.equal(adaround(weight, made, Rows(inputs, inputs @ weight.T)), torch.tensor([[3.0, -2.0, 1.0]]))


def test_pruned_weights_stay_zero():
    weight, inputs = problem(12, 5, outputs=4)
    alive = torch.rand(4, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    pruned = weight * alive
    made = grid(pruned, 3)
    data = Rows(inputs, inputs @ weight.T)
    found = adaround(pruned, made, data, FAST, alive)
    assert bool((found[~alive] == 0).all())
    assert data.error(made.restored(found)) < data.error(made.rounded(pruned))
