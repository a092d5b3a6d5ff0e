"""Tensor-Train: a tensor, or a matrix cut into digits, as a chain of small cores.

    T[n1, .., nd]              = G1[n1] G2[n2] ... Gd[nd]                       Gk (r_{k-1}, nk, rk),     r_0 = r_d = 1
    W[(o1 .. od), (i1 .. id)]  = G1[o1, i1] G2[o2, i2] ... Gd[od, id]           Gk (r_{k-1}, ok, ik, rk)

Oseledets 2011, "Tensor-Train Decomposition" (SIAM J. Sci. Comput. 33), algorithm 1: singular values of one unfolding
after the other. Each step projects what the one before it kept, so that the squared error is exactly what the steps
leave out; with the tail of the k-th unfolding of T itself called e_k,

    max of e_k^2  <=  ||T - T'||_F^2  <=  sum of e_k^2                          (theorem 2.2; the best is above the max)

For matrices: Novikov et al. 2015, "Tensorizing Neural Networks" (arXiv:1509.06569). A product with x goes core by core
and never makes W: `multiply`. Parameters: sum of r_{k-1} nk rk, O(d n r^2) where the matrix has n^d.

A convolution is the tensor (in, k1, .., kd, out): a 1x1 convolution, one convolution along each axis of the kernel, and
a 1x1 convolution (`kernel_of` is the inverse of `kernel_axes`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.functional.svd import decompose


def train(tensor: Tensor, ranks: int | Sequence[int]) -> list[Tensor]:
    """The cores (r, n, r') of a tensor, float64; no rank is above its one of `ranks`.

    Raises:
        ValueError: there is not one rank of at least 1 for each of the d - 1 cuts.
    """
    sizes = list(tensor.shape)
    count = len(sizes)
    bounds = [ranks] * (count - 1) if isinstance(ranks, int) else list(ranks)
    if len(bounds) != count - 1 or any(bound < 1 for bound in bounds):
        raise ValueError(f"{count} cores have {count - 1} ranks between them, each at least 1, got {ranks}")
    left = tensor.double()
    cores: list[Tensor] = []
    rank = 1
    for size, bound in zip(sizes[:-1], bounds, strict=True):
        u, values, right = decompose(left.reshape(rank * size, -1))
        new = min(bound, len(values))
        cores.append(u[:, :new].reshape(rank, size, new))
        left = values[:new, None] * right[:new]
        rank = new
    return [*cores, left.reshape(rank, sizes[-1], 1)]


def spectra(tensor: Tensor) -> list[Tensor]:
    """Singular values of each of the d - 1 unfoldings, which bound the error of every choice of ranks."""
    whole, sizes = tensor.double(), list(tensor.shape)
    return [torch.linalg.svdvals(whole.reshape(math.prod(sizes[: k + 1]), -1)) for k in range(len(sizes) - 1)]


def joined(cores: Sequence[Tensor]) -> Tensor:
    """The tensor that cores (r, n, r') stand for."""
    whole = cores[0]
    for core in cores[1:]:
        whole = torch.tensordot(whole, core, 1)
    return whole.flatten(0, 1).flatten(-2)


def kernel_axes(weight: Tensor) -> Tensor:
    """(out, in, *kernel) as (in, *kernel, out)."""
    return weight.movedim(0, -1)


def kernel_of(tensor: Tensor) -> Tensor:
    """(in, *kernel, out) as (out, in, *kernel)."""
    return tensor.movedim(-1, 0)


def digits(matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int]) -> Tensor:
    """A matrix (prod of `outputs`, prod of `inputs`) as (o1 i1, o2 i2, ..).

    Raises:
        ValueError: the sizes do not multiply to the matrix's.
    """
    count = len(outputs)
    if count != len(inputs) or matrix.shape != (math.prod(outputs), math.prod(inputs)):
        raise ValueError(
            f"a matrix of {tuple(matrix.shape)} has no cores of ({' x '.join(map(str, outputs))}) by "
            f"({' x '.join(map(str, inputs))}): the products must be its sides, with as many factors on both"
        )
    order = [axis for k in range(count) for axis in (k, count + k)]
    sizes = [o * i for o, i in zip(outputs, inputs, strict=True)]
    return matrix.reshape(*outputs, *inputs).permute(order).reshape(sizes)


def matrix_of(tensor: Tensor, outputs: Sequence[int], inputs: Sequence[int]) -> Tensor:
    """The inverse of `digits`: (o1 i1, o2 i2, ..) as a matrix (prod of `outputs`, prod of `inputs`)."""
    count = len(outputs)
    cut = tensor.reshape([size for pair in zip(outputs, inputs, strict=True) for size in pair])
    order = [*range(0, 2 * count, 2), *range(1, 2 * count, 2)]
    return cut.permute(order).reshape(math.prod(outputs), math.prod(inputs))


def tensor_train(
    matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int], ranks: int | Sequence[int]
) -> list[Tensor]:
    """The cores (r, o, i, r') of a matrix (prod of `outputs`, prod of `inputs`), float64.

    Raises:
        ValueError: the sizes do not multiply to the matrix's, or there is not one rank for each cut.
    """
    cores = train(digits(matrix, outputs, inputs), ranks)
    return [c.reshape(len(c), o, i, -1) for c, o, i in zip(cores, outputs, inputs, strict=True)]


def cuts(matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int]) -> list[Tensor]:
    """Singular values of each of the d - 1 unfoldings of a matrix.

    Raises:
        ValueError: the sizes do not multiply to the matrix's.
    """
    return spectra(digits(matrix, outputs, inputs))


def merged(one: Tensor, other: Tensor) -> Tensor:
    """Two neighbouring cores as one, (r, o o', i i', r'')."""
    whole = torch.einsum("roiq,qpjs->ropijs", one, other)
    return whole.flatten(3, 4).flatten(1, 2)


def restored(cores: Sequence[Tensor]) -> Tensor:
    """The matrix that cores (r, o, i, r') stand for; of a ring, the trace over its first and last rank."""
    whole = cores[0]
    for core in cores[1:]:
        whole = merged(whole, core)
    return torch.einsum("roir->oi", whole)


def multiply(cores: Sequence[Tensor], rows: Tensor) -> Tensor:
    """W x for every row x of (n, inputs), (n, outputs), without making W.

    Core k costs n times r_{k-1} ok ik rk times the outputs before it and the inputs behind it.
    """
    count = len(rows)
    state = rows.reshape(count, 1, 1, -1)  # (n, outputs so far, rank, inputs left)
    for core in cores:
        rank, _, size, _ = core.shape
        state = state.reshape(count, state.shape[1], rank, size, -1)
        state = torch.einsum("nOril,roiq->nOoql", state, core).flatten(1, 2)
    return state.reshape(count, -1)
