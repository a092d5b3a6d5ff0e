"""A matrix as the product of two thin ones.

Plain     min over rank r of ||W - L R||_F^2. With W = U S V':  L = U_r S_r^1/2,  R = S_r^1/2 V_r',  and the error is
          the sum of the squares of the singular values left out.
          Eckart and Young 1936 ("The approximation of one matrix by another of lower rank", Psychometrika 1).

Aware     min over rank r of sum over rows x of |W x - L R x|^2 = ||(W - L R) C^1/2||_F^2, C = sum of x x'. Whitening
          by a factor of C and taking it out again (Wang et al. 2024, "SVD-LLM", arXiv:2403.07378) comes
          to the same as projecting W on what its outputs mostly are: with U_r the first eigenvectors of the outputs'
          second moment O = W C W',

              L = U_r,    R = U_r' W,    error = the eigenvalues of O left out.

          Nothing is inverted, C may be singular, and O is as wide as the outputs only, however many inputs there are.

Between the factors the scale is split evenly: the columns of L and the rows of R have the same norms.

Precision: everything is computed in float64. Eigenvalues of a symmetric matrix are exact to eps times the largest one,
so a singular value from `principal` is exact to sqrt(eps) = 1.5e-8 of the largest; `decompose` does not square and is
exact to eps. A matrix that is `WIDE` is squared as well, to its short side, which costs a fraction of its own
decomposition: `singular_values` and `leading` are then exact to sqrt(eps), and what `factors` leave out is above the
optimum by at most n eps times the largest square, n the short side (the difference of the sums of the first eigenvalues
under a perturbation of norm n eps; Weyl 1912).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lissom.functional.perturbed import noisy_outputs

DAMPING = 1e-6
"""Of the outputs' energy: how much the plain error counts beside the one on the data. It orders what the data never
excite, so that the full rank gives the matrix back."""
TINY = 1e-12
WIDE = 2
"""Columns for each row from which on the Gram matrix of the rows is decomposed instead."""


class Factors(NamedTuple):
    """(m, r) and (r, n), float64; their product stands for a matrix (m, n)."""

    left: Tensor
    right: Tensor


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, k), the singular values (k,) in falling order, and V' (k, n); k = min(m, n)."""
    return torch.linalg.svd(matrix.double(), full_matrices=False)


def factors(matrix: Tensor, rank: int) -> Factors:
    """The nearest matrix of a rank in [1, min(m, n)], in two factors."""
    if _wide(matrix):
        columns = leading(matrix, rank)
        return balanced(columns, columns.T @ matrix.double())
    if _wide(matrix.T):
        right, left = factors(matrix.T, rank)
        return Factors(left.T, right.T)
    left, values, right = decompose(matrix)
    return balanced(left[:, :rank] * values[:rank], right[:rank])


def singular_values(matrix: Tensor) -> Tensor:
    """(min(m, n),) in falling order."""
    short = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    if not _wide(short):
        return torch.linalg.svdvals(short)
    return torch.linalg.eigvalsh(short @ short.T).flip(0).clamp_min(0).sqrt()


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The first left singular vectors, (m, rank); beyond the rank of the matrix, any that are orthonormal."""
    whole = matrix.double()
    if _wide(matrix):
        return torch.linalg.eigh(whole @ whole.T).eigenvectors.flip(1)[:, :rank]
    return torch.linalg.svd(whole, full_matrices=matrix.shape[1] < rank).U[:, :rank]


def _wide(matrix: Tensor) -> bool:
    return matrix.shape[1] >= WIDE * matrix.shape[0]


def principal(matrix: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns (m, k) and singular values (k,) of W C^1/2, from the outputs' second moment (m, m).

    `outputs` may be of any scale, and be taken around the mean where a bias makes up for it.
    """
    width = min(matrix.shape)
    values, vectors = torch.linalg.eigh(damped(matrix, outputs))
    return vectors.flip(1)[:, :width], values.flip(0)[:width].clamp_min(0).sqrt()


def aware_factors(matrix: Tensor, outputs: Tensor, rank: int) -> Factors:
    """The matrix of a rank in [1, min(m, n)] whose outputs are nearest, in two factors."""
    columns = principal(matrix, outputs)[0][:, :rank]
    return balanced(columns, columns.T @ matrix.double())


def damped(matrix: Tensor, outputs: Tensor) -> Tensor:
    """The outputs' second moment with a little of W W' in it; W W' itself where there were no outputs."""
    plain = matrix.double() @ matrix.double().T
    moment = outputs.double()
    moment = (moment + moment.T) / 2
    energy, own = moment.trace(), plain.trace()
    if energy <= 0 or own <= 0:
        return plain
    return noisy_outputs(matrix, moment, DAMPING)


def balanced(left: Tensor, right: Tensor) -> Factors:
    """The same product with columns and rows of equal norms; what is zero on one side is zero on both."""
    norms = left.norm(dim=0), right.norm(dim=1)
    largest = [one.max().clamp_min(torch.finfo(one.dtype).tiny) for one in norms]
    alive = (norms[0] > TINY * largest[0]) & (norms[1] > TINY * largest[1])
    scale = torch.where(alive, (norms[1] / norms[0].clamp_min(torch.finfo(left.dtype).tiny)).sqrt(), 1.0)
    return Factors(left * scale, right / scale.unsqueeze(1))


def output_error(difference: Tensor, inputs: Tensor) -> float:
    """||D C^1/2||_F^2 of a difference of weights (m, n) and the inputs' second moment (n, n)."""
    d = difference.double()
    return float(((d @ inputs.double()) * d).sum())
