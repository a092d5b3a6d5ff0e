"""Full Tucker, Tensor-Train, tensor ring and the order of contraction, against numpy and their bounds."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.functional import hooi, ring, tensortrain
from lissom.functional.contraction import (
    Size,
    balanced,
    cheapest,
    covering,
    lookup_cost,
    merging_cost,
    product_cost,
    runs,
)

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared(difference: Tensor) -> float:
    return float(difference.square().sum())


def tails(tensor: Tensor, ranks: list[int]) -> list[float]:
    """What each left-to-right unfolding leaves out, by numpy."""
    found: list[float] = []
    for k, rank in enumerate(ranks):
        rows = math.prod(tensor.shape[: k + 1])
        values = np.linalg.svd(tensor.numpy().reshape(rows, -1), compute_uv=False)
        found.append(float((values[rank:] ** 2).sum()))
    return found


# Full Tucker ----------------------------------------------------------------------------------------------------


@given(shapes, st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=30)
def test_full_tucker_keeps_its_bounds_and_is_never_worse_than_its_start(sizes, rank, seed):
    t = normal(*sizes, seed=seed)
    ranks = [min(rank, size) for size in sizes]
    start, found = hooi.hosvd(t, ranks), hooi.hooi(t, ranks)
    left_out = []
    for axis, own in enumerate(ranks):
        values = np.linalg.svd(np.moveaxis(t.numpy(), axis, 0).reshape(sizes[axis], -1), compute_uv=False)
        np.testing.assert_allclose(hooi.spectra(t)[axis].numpy(), values, atol=1e-10)
        left_out.append((values[own:] ** 2).sum())
    total = squared(t)
    one, other = squared(t - start.whole()), squared(t - found.whole())
    assert max(left_out) - 1e-9 * total <= other <= one + 1e-9 * total
    assert one <= sum(left_out) + 1e-9 * total
    assert other == pytest.approx(total - squared(found.core), abs=1e-9 * total)
    for factor in found.factors:
        torch.testing.assert_close(factor.T @ factor, torch.eye(factor.shape[1], dtype=torch.float64))


def test_sweeps_are_better_than_their_start():
    t = normal(9, 8, 7)
    assert squared(t - hooi.hooi(t, (3, 3, 3)).whole()) < squared(t - hooi.hosvd(t, (3, 3, 3)).whole()) * (1 - 1e-3)


def test_full_tucker_finds_what_has_its_ranks():
    core, factors = normal(2, 3, 2), [normal(n, r, seed=n) for n, r in ((6, 2), (5, 3), (4, 2))]
    t = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
    torch.testing.assert_close(hooi.hooi(t, (2, 3, 2)).whole(), t)


@pytest.mark.parametrize("ranks", [(2, 2), (0, 2, 2), (2, 2, 5)])
def test_ranks_that_no_tensor_has_are_refused(ranks):
    with pytest.raises(ValueError, match="one rank for each axis, from 1 to its size"):
        hooi.hooi(normal(3, 3, 4), ranks)


# Tensor-Train ---------------------------------------------------------------------------------------------------


@given(shapes, st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=30)
def test_a_train_keeps_its_bounds(sizes, rank, seed):
    t = normal(*sizes, seed=seed)
    cores = tensortrain.train(t, rank)
    assert all(a.shape[2] == b.shape[0] for a, b in pairwise(cores))
    error, left_out = squared(t - tensortrain.joined(cores)), tails(t, [rank] * (len(sizes) - 1))
    assert max(left_out) - 1e-9 * squared(t) <= error <= sum(left_out) + 1e-9 * squared(t)


def test_the_error_of_a_train_is_what_its_steps_leave_out():
    t = normal(4, 3, 5, 4)
    ranks = [3, 4, 2]
    left, given_, total = t.numpy(), 1, 0.0
    for size, rank in zip(t.shape, ranks, strict=False):
        u, s, v = np.linalg.svd(left.reshape(given_ * size, -1), full_matrices=False)
        total += float((s[rank:] ** 2).sum())
        left, given_ = s[:rank, None] * v[:rank], rank
        del u
    assert squared(t - tensortrain.joined(tensortrain.train(t, ranks))) == pytest.approx(total)


def test_four_convolutions_are_the_kernel():
    w, x = normal(5, 4, 3, 2), normal(2, 4, 7, 6)
    cores = tensortrain.train(tensortrain.kernel_axes(w), 99)
    y = torch.conv2d(x, cores[0][0].T[:, :, None, None])
    y = torch.conv2d(y, cores[1].permute(2, 0, 1)[..., None], padding=(1, 0), stride=(2, 1))
    y = torch.conv2d(y, cores[2].permute(2, 0, 1)[:, :, None], padding=(0, 1))
    y = torch.conv2d(y, cores[3][..., 0].T[:, :, None, None])
    torch.testing.assert_close(y, torch.conv2d(x, w, padding=(1, 1), stride=(2, 1)))
    torch.testing.assert_close(tensortrain.kernel_of(tensortrain.joined(cores)), w)


# Ring -----------------------------------------------------------------------------------------------------------


@given(shapes, st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=30)
def test_a_ring_is_never_worse_than_its_start_and_never_better_than_its_cuts(sizes, rank, seed):
    t = normal(*sizes, seed=seed)
    ranks = ring.ring_ranks(sizes, rank)
    start, found = ring.ring_svd(t, ranks), ring.ring(t, ranks)
    for k, core in enumerate(found):
        assert core.shape == (ranks[k], sizes[k], ranks[(k + 1) % len(sizes)])
    best = max(tails(t, [ranks[0] * one for one in ranks[1:]]))
    one, other = squared(t - ring.joined(start)), squared(t - ring.joined(found))
    assert best - 1e-9 * squared(t) <= other <= one + 1e-9 * squared(t)


@given(shapes)
@settings(max_examples=30)
def test_ranks_of_a_ring_rise_together_and_end_where_nothing_is_left_out(sizes):
    found = [ring.ring_ranks(sizes, rank) for rank in range(1, 30)]
    assert all(a <= b for one, other in pairwise(found) for a, b in zip(one, other, strict=True))
    t = normal(*sizes)
    whole = ring.ring_svd(t, ring.ring_ranks(sizes, math.prod(sizes)))
    torch.testing.assert_close(ring.joined(whole), t)


def test_the_entries_are_traces_of_products():
    cores = ring.ring(normal(3, 4, 2), (2, 1, 3))
    whole = ring.joined(cores)
    for i in range(3):
        for j in range(4):
            for k in range(2):
                product = cores[0][:, i] @ cores[1][:, j] @ cores[2][:, k]
                assert float(product.trace()) == pytest.approx(float(whole[i, j, k]))


def test_a_ring_finds_what_is_one():
    t = ring.joined([normal(2, 6, 2), normal(2, 5, 2, seed=1), normal(2, 6, 2, seed=2)])
    assert squared(t - ring.joined(ring.ring(t, (2, 2, 2), sweeps=500))) < 1e-2 * squared(t)
    whole = ring.ring_ranks(t.shape, 99)
    torch.testing.assert_close(ring.joined(ring.ring(t, whole)), t)


def test_wrong_rings_are_explained():
    with pytest.raises(ValueError, match=r"at least two axes and ranks of at least 1, got 1 axes, rank 2"):
        ring.ring_ranks((4,), 2)
    with pytest.raises(ValueError, match="3 cores has as many ranks"):
        ring.ring(normal(2, 3, 4), (1, 2))
    with pytest.raises(ValueError, match="fewer than r_0 r_1 = 4"):
        ring.ring(normal(2, 3, 4), (2, 2, 2))


# Order of contraction -------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(1, 3))
@settings(max_examples=60)
def test_sizes_multiply_to_what_they_divide_or_cover(size, count):
    factors = balanced(size, count)
    assert math.prod(factors) == size
    assert list(factors) == sorted(factors)
    cover = covering(size, count)
    assert len(cover) == count
    assert size <= math.prod(cover)
    # No row too many by more than one entry of one digit.
    assert math.prod(cover) < size + math.prod(cover) / min(cover)
    assert max(cover) <= math.ceil(size ** (1 / count) - 1e-9) + (count > 1)


def test_balanced_is_as_near_as_it_gets():
    assert balanced(4096, 3) == (16, 16, 16)
    assert balanced(768, 3) == (8, 8, 12)
    assert balanced(10, 2) == (2, 5)
    assert balanced(7, 2) == (1, 7)
    with pytest.raises(ValueError, match="got 0 into 2"):
        balanced(0, 2)


def einsum_cost(cores: list[Size], rows: int) -> float:
    """Multiplications of the best order that numpy finds among all orders, by its own count."""
    letters = [(chr(97 + k), chr(107 + k)) for k in range(len(cores))]
    bonds = "ABCDE"
    terms = ["z" + "".join(i for _, i in letters)]
    terms += [bonds[k] + o + i + bonds[k + 1] for k, (o, i) in enumerate(letters)]
    shapes = [(rows, *(c.ins for c in cores)), *(tuple(c) for c in cores)]
    ends = "A" + bonds[len(cores)]
    out = "z" + "".join(o for o, _ in letters) + ends
    views = [np.broadcast_to(np.zeros(()), shape) for shape in shapes]
    path = np.einsum_path(",".join(terms) + "->" + out, *views, optimize=("optimal", 10**12))[0][1:]
    left, total = list(terms), 0
    sizes = dict(zip("".join(terms), [s for shape in shapes for s in shape], strict=True))
    for pair in path:
        taken = [left.pop(i) for i in sorted(pair, reverse=True)]
        both = set("".join(taken))
        total += math.prod(sizes[letter] for letter in both)
        left.append("".join(sorted(both & (set("".join(left)) | set(out)))))
    return total


@pytest.mark.parametrize("rows", [1, 7, 100, 10_000])
@pytest.mark.parametrize("rank", [1, 8, 40])
def test_no_order_that_numpy_finds_is_cheaper(rows, rank):
    cores = [Size(1, 4, 16, rank), Size(rank, 8, 8, rank), Size(rank, 16, 4, 1)]
    way = cheapest(cores, rows)
    merged = [
        Size(
            cores[r[0]].left,
            math.prod(cores[k].outs for k in r),
            math.prod(cores[k].ins for k in r),
            cores[r[-1]].right,
        )
        for r in way
    ]
    mine = sum(merging_cost([cores[k] for k in r]) for r in way) + rows * product_cost(merged)
    assert mine <= einsum_cost(cores, rows) * (1 + 1e-9)


def test_few_rows_go_core_by_core_and_many_through_the_matrix():
    cores = [Size(1, 16, 16, 64), Size(64, 16, 16, 64), Size(64, 16, 16, 1)]
    lengths = [len(cheapest(cores, rows)) for rows in (1, 10, 1000)]
    assert lengths == [3, 2, 1]
    ranges = list(runs(3))
    assert len(ranges) == 4
    assert ranges[0] == (range(1), range(1, 2), range(2, 3))


def test_a_ring_is_never_merged_to_one_core():
    cores = [Size(4, 2, 2, 40), Size(40, 2, 2, 4)]
    assert len(cheapest(cores, 10**6)) == 2


def test_costs_are_counted_by_hand():
    cores = [Size(1, 2, 5, 3), Size(3, 4, 6, 1)]
    # 6 inputs left times 5 x (2 x 3), then 2 outputs made times (3 x 6) x 4.
    assert product_cost(cores) == 6 * 5 * 6 + 2 * 18 * 4
    # A look-up: a slice of (5, 3) times one of (3, 6).
    assert lookup_cost(cores) == 5 * 3 * 6
    assert merging_cost(cores) == 2 * 5 * 3 * 4 * 6
