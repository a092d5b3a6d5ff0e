"""Masks and updates of single weights, against loops, exact inverses and torch's own convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional.sparsity import (
    keep_largest,
    keep_largest_in_rows,
    patches,
    sparse_gpt,
    wanda_scores,
    zeros_by_layer,
    zeros_of,
)

quick = settings(max_examples=40, deadline=None)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(rows: int, n: int, seed: int = 0) -> Tensor:
    """Inputs of very different sizes with a few common causes behind a ReLU, as activations are."""
    scale = torch.exp(0.7 * numbers(n, seed=seed + 3))
    causes = numbers(rows, n // 3, seed=seed) @ numbers(n // 3, n, seed=seed + 1) / (n // 3) ** 0.5
    return torch.relu((causes + 0.5 * numbers(rows, n, seed=seed + 2) + 0.3) * scale)


# ---- counts and masks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "size", "wanted"), [(0.7, 10, 7), (0.1, 30, 3), (0.3, 10, 3), (0.5, 9, 4), (0.0, 5, 0), (0.99, 100, 99)]
)
def test_counts_are_exact(ratio, size, wanted):
    assert zeros_of(ratio, size) == wanted


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.floats(0, 0.99))
@quick
def test_the_lowest_go_and_ties_by_place(values, ratio):
    scores = torch.tensor(values, dtype=torch.float32)
    zeros = zeros_of(ratio, len(values))
    gone = sorted(range(len(values)), key=lambda i: (values[i], i))[:zeros]
    assert keep_largest(scores, zeros).tolist() == [i not in gone for i in range(len(values))]


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 0.99), st.integers(0, 100))
@quick
def test_wanda_cuts_within_rows(rows, n, ratio, seed):
    weight, x = numbers(rows, n, seed=seed), numbers(7, n, seed=seed + 1)
    zeros = zeros_of(ratio, n)
    keep = keep_largest_in_rows(wanda_scores(weight, x.square().sum(0)), zeros)
    w, norms = weight.numpy(), [np.linalg.norm(x.numpy()[:, j]) for j in range(n)]
    for i in range(rows):
        order = sorted(range(n), key=lambda j: abs(w[i, j]) * norms[j])
        assert [j for j in range(n) if not keep[i, j]] == sorted(order[:zeros])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.floats(0, 0.9), st.integers(0, 100))
@quick
def test_the_global_ranking_is_one_sort_over_all(sizes, ratio, seed):
    scores = {str(i): numbers(n, seed=seed + i).abs() * (i + 1) for i, n in enumerate(sizes)}
    everything = sorted((float(v), name) for name, values in scores.items() for v in values)
    lost = [name for _, name in everything[: zeros_of(ratio, sum(sizes))]]
    assert zeros_by_layer(scores, ratio, 1.0) == {name: lost.count(name) for name in scores}


def test_the_global_ranking_kills_no_layer():
    scores = {"small": torch.arange(10.0) / 1000, "large": 1 + torch.arange(10.0)}
    assert zeros_by_layer(scores, 0.5, 0.8) == {"small": 8, "large": 2}
    assert zeros_by_layer(scores, 0.8, 0.8) == {"small": 8, "large": 8}


# ---- SparseGPT -----------------------------------------------------------------------------------------------------


def naive(weight: Tensor, x: Tensor, zeros: int, block: int, damping: float) -> np.ndarray:
    """Optimal brain surgeon, one weight and one exact inverse at a time, in SparseGPT's order and with its masks."""
    w = weight.numpy().copy()
    h = (x.T @ x).numpy().copy()
    h += damping * np.diag(h).mean() * np.eye(len(h))
    rows, n = w.shape
    done = 0
    for start in range(0, n, block):
        columns = range(start, min(start + block, n))
        cost = {(i, j): w[i, j] ** 2 / np.linalg.inv(h[j:, j:])[0, 0] for i in range(rows) for j in columns}
        due = zeros * (columns[-1] + 1) // n
        gone = set(sorted(cost, key=lambda at: (cost[at], at))[: due - done])
        done = due
        for j in columns:
            inverse = np.linalg.inv(h[j:, j:])
            for i in range(rows):
                if (i, j) in gone:
                    w[i, j:] -= w[i, j] / inverse[0, 0] * inverse[:, 0]
                    w[i, j] = 0.0
    return w


@pytest.mark.parametrize("block", [1, 3, 4, 8, 128])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.8])
def test_sparse_gpt_is_the_optimal_brain_surgeon(block, ratio):
    weight, x = numbers(5, 8), correlated(20, 8)
    zeros = zeros_of(ratio, 40)
    got = sparse_gpt(weight, x.T @ x, zeros, block=block)
    np.testing.assert_allclose(got.numpy(), naive(weight, x, zeros, block, 0.01), rtol=1e-8, atol=1e-10)
    assert int((got == 0).sum()) == zeros


def test_one_zero_is_made_up_for_by_least_squares():
    """With one weight gone in column 0 and no damping, the rest is what a least-squares fit gives."""
    x, weight = correlated(30, 6), numbers(1, 6)
    weight[0, 0] = 1e-6
    got = sparse_gpt(weight, x.T @ x, 1, block=6, damping=0.0)
    assert float(got[0, 0]) == 0.0
    fit = torch.linalg.lstsq(x[:, 1:], x @ weight[0]).solution
    torch.testing.assert_close(got[0, 1:], fit)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_outputs_change_less_than_by_magnitude_or_wanda(ratio):
    for seed in range(0, 50, 10):
        weight, x = numbers(16, 36, seed=seed + 5), correlated(400, 36, seed)
        zeros = 16 * zeros_of(ratio, 36)
        wanda = keep_largest_in_rows(wanda_scores(weight, x.square().sum(0)), zeros // 16)
        made = (
            sparse_gpt(weight, x.T @ x, zeros),
            weight * wanda,
            weight * keep_largest(weight.abs(), zeros),
        )
        assert {int((new == 0).sum()) for new in made} == {zeros}
        ours, by_norm, by_size = (float((x @ (new - weight).T).square().sum()) for new in made)
        assert ours < 0.9 * by_norm < 0.9 * by_size


@given(st.floats(0.001, 1000.0), st.floats(0.001, 1000.0))
@quick
def test_units_do_not_matter(k, unit):
    weight, x = numbers(4, 6), correlated(20, 6)
    once = sparse_gpt(weight, x.T @ x, 12, block=4)
    torch.testing.assert_close(sparse_gpt(k * weight, unit * x.T @ x, 12, block=4), k * once)


def test_inputs_that_are_never_anything_go_first():
    weight, x = numbers(4, 6) + 10, correlated(20, 6)
    x[:, [1, 4]] = 0
    got = sparse_gpt(weight, x.T @ x, 8)
    assert bool((got[:, [1, 4]] == 0).all())
    assert torch.equal(got[:, [0, 2, 3, 5]], weight[:, [0, 2, 3, 5]])
    got = sparse_gpt(weight, torch.zeros(6, 6), 5)
    assert int((got == 0).sum()) == 5


# ---- patches -------------------------------------------------------------------------------------------------------

CONVS = {
    "1d": (F.conv1d, (2, 4, 9), (6, 4, 3), {}),
    "1d unbatched": (F.conv1d, (4, 9), (6, 4, 3), {"padding": 1}),
    "1d same": (F.conv1d, (2, 4, 9), (6, 4, 4), {"padding": "same"}),
    "1d valid": (F.conv1d, (2, 4, 9), (6, 4, 4), {"padding": "valid", "dilation": 2}),
    "2d": (F.conv2d, (2, 4, 7, 8), (6, 4, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    "2d same dilated": (F.conv2d, (2, 4, 7, 8), (6, 4, 2, 3), {"padding": "same", "dilation": (3, 2)}),
    "2d grouped": (F.conv2d, (2, 4, 7, 8), (6, 2, 3, 3), {"groups": 2, "stride": 2}),
    "depthwise": (F.conv2d, (2, 4, 7, 8), (8, 1, 3, 3), {"groups": 4, "padding": 1}),
    "3d": (F.conv3d, (2, 4, 5, 6, 4), (6, 4, 2, 3, 1), {"stride": (1, 2, 3), "padding": (0, 1, 2)}),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVS)
def test_a_convolution_is_its_patches_times_its_weight(name):
    conv, shape, weight_shape, settings = CONVS[name]
    x, weight = numbers(*shape), numbers(*weight_shape, seed=1)
    wanted = conv(x, weight, **settings)
    dims = len(weight_shape) - 2
    each = {key: settings.get(key, default) for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))}
    each = {key: (v,) * dims if isinstance(v, int) else v for key, v in each.items()}
    groups = settings.get("groups", 1)
    rows = patches(x, weight_shape[2:], groups=groups, **each)
    got = rows @ weight.reshape(groups, weight_shape[0] // groups, -1).transpose(
        1, 2
    )  # (groups, positions, out / groups)
    got = got.movedim(0, 1).flatten(1)
    torch.testing.assert_close(got, wanted.movedim(-dims - 1, -1).reshape(-1, weight_shape[0]))
