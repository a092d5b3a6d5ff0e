"""Tensor ring: a Tensor-Train whose ends are joined.

    T[n1, .., nd] = trace of  G1[n1] G2[n2] ... Gd[nd]                     Gk (r_{k-1}, nk, rk),     r_d = r_0

Zhao et al. 2016, "Tensor Ring Decomposition" (arXiv:1606.05535). No axis is at an end, so that all ranks may be alike
and small. Found in two steps:

TR-SVD    (algorithm 1) the first unfolding is cut to r_0 r_1 singular vectors and its columns go to both neighbours;
          the rest is a Tensor-Train whose last axis carries r_0. Each step projects what the one before it kept: the
          squared error is exactly what the steps leave out, and none is left out at full rank.
TR-ALS    (algorithm 2) every core again by least squares, all others given, for `SWEEPS` rounds. With M the product of
          the others, unfolded, the core is T_(k) M (M'M)^-1. Against terms that cancel, M'M gets `RIDGE` of its mean
          diagonal, for the *change* of the core, so that a sweep never makes the error larger.

Any error is at least the tail of the k-th unfolding behind rank r_0 r_k: the cut goes through two bonds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.functional.svd import decompose
from lissom.functional.tensortrain import train

SWEEPS = 20
SETTLED = 1e-6
"""Of the squared norm: the gain of a sweep below which it stops."""
RIDGE = 1e-9


def ring_ranks(sizes: Sequence[int], rank: int) -> tuple[int, ...]:
    """(r_0, .., r_{d-1}): as near to `rank` as the unfoldings of such a tensor have singular values.

    r_0 divides what the first axis has, so that the largest ranks leave nothing out, and is at most its square root.
    No rank falls where `rank` rises.

    Raises:
        ValueError: fewer than two axes, or a rank below 1.
    """
    if len(sizes) < 2 or rank < 1:
        raise ValueError(f"a ring has at least two axes and ranks of at least 1, got {len(sizes)} axes, rank {rank}")
    first = min(sizes[0], math.prod(sizes[1:]))
    around = max(d for d in range(1, math.isqrt(first) + 1) if first % d == 0 and d <= rank)
    after = min(rank, first // around)
    found = [around, after]
    for k in range(1, len(sizes) - 1):
        right = math.prod(sizes[k + 1 :]) * around
        found.append(min(rank, found[-1] * sizes[k], right))
    return tuple(found)


def ring_svd(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """The cores (r_{k-1}, nk, rk), float64, by TR-SVD.

    Raises:
        ValueError: there is not one rank of at least 1 for each axis, or r_0 r_1 is above what the first axis has.
    """
    sizes = list(tensor.shape)
    if len(ranks) != len(sizes) or min(ranks) < 1:
        raise ValueError(f"a ring of {len(sizes)} cores has as many ranks, each at least 1, got {tuple(ranks)}")
    around, after = ranks[0], ranks[1]
    u, values, right = decompose(tensor.double().reshape(sizes[0], -1))
    if around * after > len(values):
        raise ValueError(f"the first axis has {len(values)} singular values, fewer than r_0 r_1 = {around * after}")
    first = u[:, : around * after].reshape(sizes[0], around, after).permute(1, 0, 2)
    rest = (values[: around * after, None] * right[: around * after]).reshape(around, after, -1)
    # (r_1 n2, .., nd r_0): the rank behind goes with the first of the others, the one around with the last.
    rest = rest.permute(1, 2, 0).reshape(after * sizes[1], *sizes[2:], around)
    rest = rest.flatten(-2)
    found = train(rest, ranks[2:])
    cores = [first, *found]
    cores[1] = cores[1].reshape(after, sizes[1], -1)
    if len(sizes) > 2:
        cores[-1] = cores[-1].reshape(len(cores[-1]), sizes[-1], around)
    return cores


def ring(tensor: Tensor, ranks: Sequence[int], sweeps: int = SWEEPS) -> list[Tensor]:
    """The cores by TR-SVD, then TR-ALS.

    Raises:
        ValueError: as `ring_svd`.
    """
    whole = tensor.double()
    cores = ring_svd(whole, ranks)
    total = float(whole.square().sum())
    before = error(whole, cores)
    for _ in range(sweeps):
        for k in range(len(cores)):
            cores[k] = _least_squares(whole, cores, k)
        now = error(whole, cores)
        if before - now <= SETTLED * total:
            break
        before = now
    return cores


def joined(cores: Sequence[Tensor]) -> Tensor:
    """The tensor that cores stand for."""
    whole = cores[0]
    for core in cores[1:]:
        whole = torch.tensordot(whole, core, 1)
    return torch.diagonal(whole, dim1=0, dim2=-1).sum(-1)


def error(tensor: Tensor, cores: Sequence[Tensor]) -> float:
    """||T - T'||_F^2"""
    return float((tensor - joined(cores)).square().sum())


def _least_squares(whole: Tensor, cores: Sequence[Tensor], k: int) -> Tensor:
    """The best core k for the others."""
    others = [*cores[k + 1 :], *cores[:k]]
    product = others[0]
    for core in others[1:]:
        product = torch.tensordot(product, core, 1).flatten(1, 2)
    basis = product.permute(1, 2, 0).flatten(1)  # (everything else, r_{k-1} r_k)
    order = [(k + j) % whole.ndim for j in range(whole.ndim)]
    unfolded = whole.permute(order).reshape(whole.shape[k], -1)
    own = cores[k].permute(1, 0, 2).flatten(1)
    gram = basis.T @ basis
    gram = gram + RIDGE * gram.diagonal().mean().clamp_min(1e-300) * torch.eye(len(gram), dtype=gram.dtype)
    change = torch.linalg.solve(gram, basis.T @ (unfolded - own @ basis.T).T).T
    return (own + change).reshape(whole.shape[k], cores[k].shape[0], cores[k].shape[2]).permute(1, 0, 2)
