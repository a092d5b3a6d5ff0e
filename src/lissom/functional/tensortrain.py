"""Tensor-Train: a matrix as a chain of small cores.

    W[(o1 .. od), (i1 .. id)] = G1[o1, i1] G2[o2, i2] ... Gd[od, id]          Gk (r_{k-1}, ok, ik, rk), r_0 = r_d = 1

Oseledets 2011, "Tensor-Train Decomposition" (SIAM J. Sci. Comput. 33), algorithm 1: singular values of one unfolding
after the other. With what is left out at each of the d - 1 cuts called e_k,

    ||W - W'||_F^2 <= sum of e_k^2                                            (theorem 2.2)

For matrices: Novikov et al. 2015, "Tensorizing Neural Networks" (arXiv:1509.06569). A product with x goes
core by core and never makes W: `multiply`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.functional.svd import decompose


def tensor_train(
    matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int], ranks: int | Sequence[int]
) -> list[Tensor]:
    """The cores of a matrix (prod of `outputs`, prod of `inputs`), float64; no rank is above one of `ranks`.

    Raises:
        ValueError: the sizes do not multiply to the matrix's, or there is not one rank for each cut.
    """
    count = len(outputs)
    if count != len(inputs) or matrix.shape != (math.prod(outputs), math.prod(inputs)):
        raise ValueError(
            f"a matrix of {tuple(matrix.shape)} has no cores of ({' x '.join(map(str, outputs))}) by "
            f"({' x '.join(map(str, inputs))}): the products must be its sides, with as many factors on both"
        )
    bounds = [ranks] * (count - 1) if isinstance(ranks, int) else list(ranks)
    if len(bounds) != count - 1 or any(bound < 1 for bound in bounds):
        raise ValueError(f"{count} cores have {count - 1} ranks between them, each at least 1, got {ranks}")
    # Axes (o1, i1, o2, i2, ...).
    order = [axis for k in range(count) for axis in (k, count + k)]
    left = matrix.double().reshape(*outputs, *inputs).permute(order).contiguous()
    cores: list[Tensor] = []
    rank = 1
    for k in range(count - 1):
        u, values, right = decompose(left.reshape(rank * outputs[k] * inputs[k], -1))
        new = min(bounds[k], len(values))
        cores.append(u[:, :new].reshape(rank, outputs[k], inputs[k], new))
        left = values[:new, None] * right[:new]
        rank = new
    return [*cores, left.reshape(rank, outputs[-1], inputs[-1], 1)]


def cuts(matrix: Tensor, outputs: Sequence[int], inputs: Sequence[int]) -> list[Tensor]:
    """Singular values of each of the d - 1 unfoldings, which bound the error of every choice of ranks."""
    count = len(outputs)
    order = [axis for k in range(count) for axis in (k, count + k)]
    whole = matrix.double().reshape(*outputs, *inputs).permute(order)
    sizes = [o * i for o, i in zip(outputs, inputs, strict=True)]
    return [torch.linalg.svdvals(whole.reshape(math.prod(sizes[: k + 1]), -1)) for k in range(count - 1)]


def restored(cores: Sequence[Tensor]) -> Tensor:
    """The matrix that cores stand for."""
    whole = torch.ones(1, 1, 1, dtype=cores[0].dtype)
    for core in cores:
        whole = torch.einsum("OIr,roiq->OoIiq", whole, core).flatten(2, 3).flatten(0, 1)
    return whole[..., 0]


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
