"""Ranks: the noise floor of variational Bayes, and one budget shared by all layers."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissom.functional.allocation import Option, allocate, hull
from lissom.functional.vbmf import rank_above_noise


def singular_values(rank: int, size: float, shape: tuple[int, int] = (60, 90), noise: float = 1.0, seed: int = 0):
    made = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(shape[0], max(rank, 1), generator=made, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(shape[1], max(rank, 1), generator=made, dtype=torch.float64)).Q
    signal = size * left @ right.T if rank else 0.0
    return torch.linalg.svdvals(signal + noise * torch.randn(*shape, generator=made, dtype=torch.float64))


@pytest.mark.parametrize("rank", [0, 1, 3, 7])
@pytest.mark.parametrize("noise", [1e-6, 1.0, 1e4])
def test_the_planted_rank_is_found_whatever_the_unit(rank, noise):
    # The largest value of the noise alone is about sqrt(60) + sqrt(90) = 17.2.
    values = singular_values(rank, 30.0 * noise, noise=noise)
    assert rank_above_noise(values, (60, 90)) == rank
    assert rank_above_noise(values, (90, 60)) == rank


def test_what_is_below_the_noise_is_not_found():
    assert rank_above_noise(singular_values(3, 8.0), (60, 90)) == 0


def test_exact_rank_and_nothing_at_all():
    values = torch.cat([torch.ones(4), 1e-9 * torch.ones(6)])
    assert rank_above_noise(values, (10, 12)) == 4
    assert rank_above_noise(torch.zeros(10), (10, 12)) == 0


# One budget ---------------------------------------------------------------------------------------------------

lists = st.lists(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30)), min_size=1, max_size=5), min_size=1, max_size=4
)


def brute(options: dict[str, list[Option]], budget: float) -> float | None:
    """The least loss of all that fit, by trying every one."""
    every = itertools.product(*options.values())
    losses = [sum(o.loss for o in one) for one in every if sum(o.cost for o in one) <= budget]
    return min(losses, default=None)


@given(lists, st.integers(1, 80))
def test_the_budget_is_kept_and_the_loss_is_within_one_segment_of_the_best(given_lists, budget):
    options = {str(i): [Option(*o) for o in own] for i, own in enumerate(given_lists)}
    found = allocate(options, budget)
    best = brute(options, budget)
    if best is None:
        assert found is None
        return
    assert found is not None
    taken = [options[name][index] for name, index in found.items()]
    assert sum(o.cost for o in taken) <= budget
    segments = [own[a].loss - own[b].loss for own in options.values() for a, b in itertools.pairwise(hull(own))]
    assert best <= sum(o.loss for o in taken) <= best + max(segments, default=0)


@given(lists)
def test_it_is_the_optimum_at_every_corner_of_the_sweep(given_lists):
    options = {str(i): [Option(*o) for o in own] for i, own in enumerate(given_lists)}
    steps = sorted(
        (-(own[a].loss - own[b].loss) / (own[b].cost - own[a].cost), order, own[b].cost - own[a].cost)
        for own in options.values()
        for order, (a, b) in enumerate(itertools.pairwise(hull(own)))
    )
    budget = sum(min(o.cost for o in own) for own in options.values())
    for extra in (0, *(step[2] for step in steps)):
        budget += extra
        found = allocate(options, budget)
        assert found is not None
        assert sum(options[n][i].loss for n, i in found.items()) == brute(options, budget)


def test_no_single_change_that_fits_would_gain():
    options = {"a": [Option(1, 9), Option(5, 5), Option(10, 0)], "b": [Option(1, 3), Option(3, 2), Option(4, 0)]}
    for budget in range(2, 15):
        found = allocate(options, budget)
        assert found is not None
        left = budget - sum(options[n][i].cost for n, i in found.items())
        for name, index in found.items():
            now = options[name][index]
            assert all(o.loss >= now.loss for o in options[name] if o.cost - now.cost <= left)


def test_spectra_are_cut_at_one_square_over_cost():
    """Singular values as options: what stays is everything above one line, as a sort of all of them says."""
    squares = {"a": [9.0, 4.0, 1.0], "b": [8.0, 2.0, 0.5]}
    costs = {"a": 2.0, "b": 1.0}
    options = {n: [Option(costs[n] * r, sum(own[r:])) for r in range(len(own) + 1)] for n, own in squares.items()}
    ranking = sorted(((v / costs[n], n) for n, own in squares.items() for v in own), reverse=True)
    for count in range(1, 7):
        kept = [n for _, n in ranking[:count]]
        budget = sum(costs[n] for n in kept)
        assert allocate(options, budget) == {n: kept.count(n) for n in squares}
