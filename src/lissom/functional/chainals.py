"""The cores of a chain fitted to what a layer makes of its data, not to its weight.

    min over G1 .. Gd of  || (W - W') C^1/2 ||_F^2,      W' what the cores (r_{k-1}, nk, rk) stand for

C is the second moment of what the layer reads. Cutting W C^1/2 would find cores of that product, and C^-1/2 behind them
is no chain; so the cores of W itself are moved, one at a time with the others given: alternating least squares (for
tensor trains: Holtz, Rohwedder and Schneider 2012, "The Alternating Linear Scheme for Tensor Optimization in the Tensor
Train Format", SIAM J. Sci. Comput. 34). The least squares of one core has r_{k-1} nk rk unknowns that C couples; it is
carried on by conjugate gradients (Hestenes and Stiefel 1952), from the core as it is, for at most `STEPS` products with
C. Each of them makes the error smaller or leaves it, so that the result is never further from W than the start,
however few they are.

Between cores the scale is moved by QR, towards the core that is fitted: in a train its surroundings are orthonormal
and only C makes the problem uneven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lissom.functional.ring import joined

SWEEPS = 4
STEPS = 4
"""Of each core in each sweep: more gain little before the other cores have moved."""
SETTLED = 1e-3
"""Of the error: the gain of a sweep below which there is no other."""
SMALL = 1e-12
"""Of the first gradient: where a core is at its optimum."""

Weigh = Callable[[Tensor], Tensor]
"""D C for a difference D laid out as the chain's tensor; linear, symmetric, not negative."""


def error(tensor: Tensor, cores: Sequence[Tensor], weigh: Weigh) -> float:
    """The squared error in the norm of the data."""
    difference = tensor - joined(cores)
    return float((difference * weigh(difference)).sum())


def fitted(tensor: Tensor, cores: Sequence[Tensor], weigh: Weigh, *, sweeps: int = SWEEPS) -> list[Tensor]:
    """The cores after up to `sweeps` sweeps, never with a larger error."""
    best = list(cores)
    least = error(tensor, best, weigh)
    for _ in range(sweeps):
        found = swept(tensor, best, weigh)
        now = error(tensor, found, weigh)
        if now < least:
            best = found
        if least - now <= SETTLED * least:
            break
        least = now
    return best


def swept(tensor: Tensor, cores: Sequence[Tensor], weigh: Weigh, *, steps: int = STEPS) -> list[Tensor]:
    """Every core once, from the first to the last."""
    own = list(cores)
    for k in range(len(own) - 1, 0, -1):
        _to_left(own, k)
    left = tensor - joined(own)
    for k in range(len(own)):
        change, moved = _least_squares(left, own, k, weigh, steps)
        own[k] = own[k] + change
        left = left - moved
        if k + 1 < len(own):
            _to_right(own, k)
    return own


def _to_left(cores: list[Tensor], k: int) -> None:
    """The rows of core k orthonormal, what that takes away goes to the core before."""
    rank, size, after = cores[k].shape
    if rank > size * after:
        return
    q, r = torch.linalg.qr(cores[k].reshape(rank, -1).T)
    cores[k] = q.T.reshape(rank, size, after)
    cores[k - 1] = torch.tensordot(cores[k - 1], r.T, 1)


def _to_right(cores: list[Tensor], k: int) -> None:
    before, size, rank = cores[k].shape
    if rank > before * size:
        return
    q, r = torch.linalg.qr(cores[k].reshape(-1, rank))
    cores[k] = q.reshape(before, size, rank)
    cores[k + 1] = torch.tensordot(r, cores[k + 1], 1)


def _least_squares(left: Tensor, cores: Sequence[Tensor], k: int, weigh: Weigh, steps: int) -> tuple[Tensor, Tensor]:
    """The change of core k that takes most from what is `left` of the tensor, and what it takes."""
    before, behind = _before(cores[:k], cores[0].shape[0]), _behind(cores[k + 1 :], cores[-1].shape[2])

    def laid_out(core: Tensor) -> Tensor:
        half = torch.einsum("zla,anb->lnzb", before, core)
        return torch.einsum("lnzb,brz->lnr", half, behind).reshape(left.shape)

    def gathered(whole: Tensor) -> Tensor:
        half = torch.einsum("lnr,brz->lnzb", whole.reshape(before.shape[1], -1, behind.shape[1]), behind)
        return torch.einsum("zla,lnzb->anb", before, half)

    change, moved = torch.zeros_like(cores[k]), torch.zeros_like(left)
    gradient = gathered(weigh(left))
    way, first = gradient, float(gradient.square().sum())
    size = first
    for _ in range(steps):
        if size <= SMALL**2 * first or size == 0.0:
            break
        step_out = laid_out(way)
        weighed = weigh(step_out)
        bent = float((step_out * weighed).sum())
        if bent <= 0.0:
            break
        step = size / bent
        change, moved = change + step * way, moved + step * step_out
        gradient = gradient - step * gathered(weighed)
        size, before_it = float(gradient.square().sum()), size
        way = gradient + size / before_it * way
    return change, moved


def _before(cores: Sequence[Tensor], rank: int) -> Tensor:
    """(r_0, sizes before, r_{k-1})"""
    whole = torch.eye(rank, dtype=torch.float64).unsqueeze(1)
    for core in cores:
        whole = torch.tensordot(whole, core, 1).flatten(1, 2)
    return whole


def _behind(cores: Sequence[Tensor], rank: int) -> Tensor:
    """(r_k, sizes behind, r_0)"""
    whole = torch.eye(rank, dtype=torch.float64).unsqueeze(1)
    for core in reversed(cores):
        whole = torch.tensordot(core, whole, 1).flatten(1, 2)
    return whole
