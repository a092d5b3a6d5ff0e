"""A matrix as a sum of Kronecker products.

    min of ||W - sum over k of A_k (x) B_k||_F,      A (m1, n1), B (m2, n2), W (m1 m2, n1 n2)

Laid out again so that each block of W is a row, R(W) (m1 n1, m2 n2), a Kronecker product is the outer product
vec(A) vec(B)', and the best sum of them is the truncated SVD of R(W): Van Loan and Pitsianis 1993, "Approximation with
Kronecker Products", section 2. The squared error is the sum of the squares of the singular values left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.functional.svd import factors


def rearranged(matrix: Tensor, blocks: tuple[int, int]) -> Tensor:
    """R(W) (m1 n1, m2 n2) for (m1, n1) blocks.

    Raises:
        ValueError: the matrix has no such blocks.
    """
    rows, columns = blocks
    if matrix.shape[0] % rows or matrix.shape[1] % columns:
        raise ValueError(f"a matrix of {tuple(matrix.shape)} does not divide into {rows} x {columns} equal blocks")
    cut = matrix.reshape(rows, matrix.shape[0] // rows, columns, matrix.shape[1] // columns)
    return cut.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


def kronecker(matrix: Tensor, blocks: tuple[int, int], terms: int) -> tuple[Tensor, Tensor]:
    """A (terms, m1, n1) and B (terms, m2, n2), float64.

    Raises:
        ValueError: the matrix has no such blocks.
    """
    left, right = factors(rearranged(matrix, blocks), terms)
    rows, columns = blocks
    inner = (matrix.shape[0] // rows, matrix.shape[1] // columns)
    return left.T.reshape(-1, rows, columns), right.reshape(-1, *inner)


def restored(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the products, (m1 m2, n1 n2)."""
    whole = torch.einsum("kij,kpq->ipjq", a, b)
    return whole.flatten(2).flatten(0, 1)


def multiply(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
    """W x for every row x of (n, n1 n2), without making W: B X A' with X the row as a matrix."""
    cut = rows.reshape(len(rows), a.shape[2], b.shape[2])
    return torch.einsum("kij,kpq,njq->nip", a, b, cut).flatten(1)
