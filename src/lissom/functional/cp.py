"""CP (canonical polyadic): a convolution as 1x1, depthwise kernel, 1x1.

    W[o, i, k] = sum over r of  U[o, r] V[i, r] K[k, r]                 W (out, in, *kernel), k over kernel positions

Lebedev et al. 2015, "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition" (arXiv:1412.6553),
with the kernel's axes kept together.

Found by alternating least squares: with two of the factors given the third is

    A = W_(a) M (M'M + l I)^-1,    M = the Khatri-Rao product of the other two,    M'M = product of their Gram matrices

The least squares have no best solution at many ranks: two terms grow without bound and cancel (De Silva and Lim 2008,
"Tensor Rank and the Ill-Posedness of the Best Low-Rank Approximation Problem"), and such factors cannot
be trained or rounded (Phan et al. 2020, arXiv:2008.05441). Against that the columns are brought to equal norms in all
three factors after every sweep, and the ridge l is `RIDGE` of the mean square column of M: what is minimised is the
error plus a small price on the size of the terms. A start from the singular vectors of the unfoldings makes the result
the same every time; what a rank asks beyond them is filled from a generator with a fixed seed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lissom.functional.hooi import unfolding
from lissom.functional.svd import leading
from lissom.functional.whitening import damped_inputs

SWEEPS = 200
SETTLED = 1e-6
"""Of the squared norm of W: the gain of a sweep below which it stops."""
RIDGE = 1e-6


class Cp(NamedTuple):
    """U (out, r), V (in, r), K (r, *kernel), float64."""

    outputs: Tensor
    inputs: Tensor
    kernel: Tensor

    def weight(self) -> Tensor:
        """What they stand for, (out, in, *kernel)."""
        flat = torch.einsum("or,ir,rk->oik", self.outputs, self.inputs, self.kernel.flatten(1))
        return flat.reshape(*flat.shape[:2], *self.kernel.shape[1:])

    @property
    def size(self) -> float:
        """The squared norms of all terms over that of their sum: about 1 where nothing cancels."""
        terms = self.outputs.norm(dim=0) * self.inputs.norm(dim=0) * self.kernel.flatten(1).norm(dim=1)
        return float(terms.square().sum() / self.weight().square().sum().clamp_min(1e-300))


def cp(weight: Tensor, rank: int) -> Cp:
    """The decomposition at a rank of at least 1."""
    w = weight.double().flatten(2)
    factors = [_start(w, axis, rank) for axis in range(3)]
    total = float(w.square().sum())
    before = float("inf")
    for _ in range(SWEEPS):
        for axis in range(3):
            factors[axis] = _least_squares(w, factors, axis)
        factors = _equal(factors)
        error = float((w - torch.einsum("or,ir,kr->oik", *factors)).square().sum())
        if before - error <= SETTLED * total:
            break
        before = error
    outputs, inputs, kernel = factors
    return Cp(outputs, inputs, kernel.T.reshape(rank, *weight.shape[2:]))


def aware_cp(weight: Tensor, inputs: Tensor, rank: int) -> Cp:
    """The plain one with U fitted to the outputs, for the second moment (n, n) of what the kernel sees."""
    found = cp(weight, rank)
    moment = damped_inputs(inputs)
    basis = torch.einsum("ir,rk->rik", found.inputs, found.kernel.flatten(1)).flatten(1)  # (r, n): z = basis x
    half = basis @ moment
    own = half @ basis.T
    own = (own + own.T) / 2 + RIDGE * own.diagonal().mean() * torch.eye(rank, dtype=torch.float64)
    right = half @ weight.double().flatten(1).T + RIDGE * (half @ basis.T).diagonal().mean() * found.outputs.T
    return Cp(torch.linalg.solve(own, right).T, found.inputs, found.kernel)


def _least_squares(w: Tensor, factors: list[Tensor], axis: int) -> Tensor:
    one, other = (factors[i] for i in range(3) if i != axis)
    gram = (one.T @ one) * (other.T @ other)
    letters = "oik"
    rest = [letter for i, letter in enumerate(letters) if i != axis]
    right = torch.einsum(f"oik,{rest[0]}r,{rest[1]}r->{letters[axis]}r", w, one, other)
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-300) * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, right.T).T


def _equal(factors: list[Tensor]) -> list[Tensor]:
    """The same terms, each with the same norm in all three factors."""
    norms = [factor.norm(dim=0).clamp_min(1e-150) for factor in factors]
    each = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return [factor * (each / norm) for factor, norm in zip(factors, norms, strict=True)]


def _start(w: Tensor, axis: int, rank: int) -> Tensor:
    side = unfolding(w, axis)
    vectors = leading(side, min(rank, *side.shape))
    more = rank - vectors.shape[1]
    if more <= 0:
        return vectors
    generator = torch.Generator().manual_seed(axis)
    return torch.cat([vectors, torch.randn(len(vectors), more, generator=generator, dtype=torch.float64)], 1)
