"""N:M masks, SparseGPT inside them, and orders of columns, against loops and exhaustive search."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from benchmarks.stripes import stripes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import permutation
from lissom.functional.nm import Pattern, as_weight, by_inputs, keep_n_of_m, kept, kernel_first
from lissom.functional.permutation import best_order
from lissom.functional.sparsity import sparse_gpt_pattern

quick = settings(max_examples=25, deadline=None)
HALF = Pattern(2, 4)
patterns = st.sampled_from([Pattern(1, 2), HALF, Pattern(1, 4), Pattern(3, 4), Pattern(2, 3), Pattern(4, 8)])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- patterns ------------------------------------------------------------------------------------------------------


def test_a_pattern_is_read_and_written():
    assert Pattern.parse("2:4") == HALF
    assert str(Pattern.parse("16:32")) == "16:32"
    assert Pattern(1, 4).zeros(12) == 9


@pytest.mark.parametrize("text", ["4:2", "4:4", "0:4", "2x4", "2:", "-2:4", ""])
def test_what_is_no_pattern(text):
    with pytest.raises(ValueError, match=r"is no pattern: write 'N:M'.*0 < N < M"):
        Pattern.parse(text)


@given(patterns, st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
@quick
def test_the_largest_of_every_group_stay(pattern, rows, groups, seed):
    scores = numbers(rows, groups * pattern.m, seed=seed).abs()
    mask = keep_n_of_m(scores, pattern)
    for row, own in zip(scores.numpy(), mask.numpy(), strict=True):
        for start in range(0, len(row), pattern.m):
            at = slice(start, start + pattern.m)
            assert own[at].sum() == pattern.n
            assert row[at][own[at]].min() >= row[at][~own[at]].max()
    assert kept(scores, pattern) == pytest.approx(float(scores[mask].sum()))


def test_of_equals_the_number_is_exact():
    assert keep_n_of_m(torch.zeros(3, 8), HALF).sum(1).tolist() == [4, 4, 4]


def test_a_convolution_is_cut_along_its_inputs_at_every_position():
    weight = numbers(3, 8, 2, 3)
    mask = as_weight(keep_n_of_m(by_inputs(weight.abs()), HALF), tuple(weight.shape))
    for out in range(3):
        for y in range(2):
            for x in range(3):
                for start in (0, 4):
                    values = weight[out, start : start + 4, y, x].abs()
                    assert mask[out, start : start + 4, y, x].tolist() == [
                        v in values.sort().values[2:] for v in values
                    ]
    assert HALF.held_by(weight * mask)
    assert not HALF.held_by(weight)
    assert not HALF.held_by(torch.zeros(3, 6)), "groups do not fit"
    flat, order = weight.flatten(1), kernel_first(tuple(weight.shape))
    assert torch.equal(flat[:, order], weight.permute(0, 2, 3, 1).flatten(1))


# ---- SparseGPT -----------------------------------------------------------------------------------------------------


def naive(weight: Tensor, x: Tensor, pattern: Pattern, damping: float) -> np.ndarray:
    """Optimal brain surgeon with one exact inverse a column, a mask for every M columns when the first is reached."""
    w = weight.numpy().copy()
    h = (x.T @ x).numpy()
    h = h + damping * np.diag(h).mean() * np.eye(len(h))
    # The diagonal that costs are taken by is that of the columns to the right of each.
    own = [np.linalg.inv(h[j:, j:])[0, 0] for j in range(len(h))]
    for start in range(0, w.shape[1], pattern.m):
        gone = [
            set(sorted(range(start, start + pattern.m), key=lambda j: row[j] ** 2 / own[j])[: pattern.m - pattern.n])
            for row in w.copy()
        ]
        for j in range(start, start + pattern.m):
            inverse = np.linalg.inv(h[j:, j:])
            for i, lost in enumerate(gone):
                if j in lost:
                    w[i, j:] -= w[i, j] / inverse[0, 0] * inverse[:, 0]
                    w[i, j] = 0.0
    return w


@pytest.mark.parametrize("pattern", [HALF, Pattern(1, 2), Pattern(1, 4), Pattern(2, 3)], ids=str)
@pytest.mark.parametrize("block", [4, 128])
def test_sparse_gpt_in_a_pattern_is_the_optimal_brain_surgeon(pattern, block):
    weight, x = numbers(5, 12), numbers(30, 12, seed=1) @ numbers(12, 12, seed=2)
    got = sparse_gpt_pattern(weight, x.T @ x, pattern, block=block)
    np.testing.assert_allclose(got.numpy(), naive(weight, x, pattern, 0.01), rtol=1e-7, atol=1e-9)
    assert int((got == 0).sum()) == pattern.zeros(60)
    assert pattern.held_by(got)


def test_outputs_change_less_than_by_magnitude():
    for seed in range(0, 50, 10):
        weight, x = numbers(16, 32, seed=seed), numbers(300, 32, seed=seed + 1) @ numbers(32, 32, seed=seed + 2)
        ours = sparse_gpt_pattern(weight, x.T @ x, HALF)
        by_size = weight * keep_n_of_m(weight.abs(), HALF)
        errors = [float((x @ (new - weight).T).square().sum()) for new in (ours, by_size)]
        assert errors[0] < 0.8 * errors[1]


# ---- orders --------------------------------------------------------------------------------------------------------


def exhaustive(scores: Tensor, pattern: Pattern, left: tuple[int, ...] | None = None) -> float:
    """Over all partitions into groups, one after the other."""
    left = tuple(range(scores.shape[1])) if left is None else left
    if not left:
        return 0.0
    best = 0.0
    for others in combinations(left[1:], pattern.m - 1):
        group = [left[0], *others]
        rest = tuple(column for column in left if column not in group)
        best = max(best, kept(scores[:, group], pattern) + exhaustive(scores, pattern, rest))
    return best


@pytest.mark.parametrize(("pattern", "columns"), [(HALF, 8), (Pattern(1, 2), 6), (Pattern(2, 3), 6)], ids=str)
def test_few_columns_are_put_in_the_best_order(pattern, columns):
    for seed in range(4):
        scores = numbers(6, columns, seed=seed).abs()
        found = best_order(scores, pattern)
        assert found.after == pytest.approx(exhaustive(scores, pattern), rel=1e-6)


def test_the_search_finds_the_best_order_as_well(monkeypatch):
    """With the exact solution as the reference, on as many columns as it takes."""
    for seed in range(3):
        scores = numbers(12, 12, seed=seed).abs()
        monkeypatch.setattr(permutation, "EXACT", 1_000_000)
        exact = best_order(scores, HALF)
        monkeypatch.setattr(permutation, "EXACT", 0)
        searched = best_order(scores, HALF)
        assert not torch.equal(searched.columns, torch.arange(12))
        assert searched.after <= exact.after * (1 + 1e-6)
        assert searched.after == pytest.approx(exact.after, rel=2e-3)


@given(patterns, st.integers(1, 6), st.integers(1, 7), st.integers(0, 100))
@quick
def test_an_order_is_a_permutation_that_keeps_what_it_says(pattern, rows, groups, seed):
    scores = numbers(rows, groups * pattern.m, seed=seed).abs()
    found = best_order(scores, pattern, trials=3)
    assert sorted(found.columns.tolist()) == list(range(groups * pattern.m))
    assert found.before == pytest.approx(kept(scores, pattern), rel=1e-5)
    assert found.after == pytest.approx(kept(scores[:, found.columns], pattern), rel=1e-5)
    assert found.after >= found.before


@pytest.mark.parametrize("seed", [0, 1])
def test_at_least_what_the_published_greedy_keeps(seed):
    scores = numbers(64, 32, seed=seed).abs().float()
    reference = kept(scores[:, stripes(scores.numpy(), HALF)], HALF)
    assert reference > kept(scores, HALF)
    assert best_order(scores, HALF).after >= reference


def test_the_same_order_every_time_and_scores_untouched():
    scores = numbers(16, 32).abs()
    before = scores.clone()
    assert torch.equal(best_order(scores, HALF, seed=3).columns, best_order(scores, HALF, seed=3).columns)
    assert torch.equal(scores, before)


def test_columns_that_clash_are_parted():
    """Large columns side by side: two of every four would go, and need not."""
    scores = torch.full((6, 64), 0.01)
    scores[:, :32] = 1.0
    found = best_order(scores, HALF)
    assert found.after == pytest.approx(6 * 32, rel=1e-3)
    assert found.before == pytest.approx(6 * 16 * (1 + 0.01), rel=1e-3)


def test_many_columns_and_rows_are_searched_in_parts(monkeypatch):
    monkeypatch.setattr(permutation, "WIDEST", 16)
    monkeypatch.setattr(permutation, "TALLEST", 20)
    scores = numbers(40, 44).abs()
    found = best_order(scores, HALF, trials=5)
    assert sorted(found.columns.tolist()) == list(range(44))
    assert found.after > found.before
