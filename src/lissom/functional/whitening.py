"""The second moment of what a kernel sees, C (n, n) with n = inputs times kernel positions, as a norm of weights.

    || D ||_C^2 = tr(D C D'),        D (out, n)

is the sum over all that was seen of the squared change of the outputs. One axis of the weight by itself has the moment
C_k (nk, nk), the sum of C over equal positions of all other axes; an unfolding is whitened by its Cholesky factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from lissom.functional.svd import DAMPING, leading

ROUNDED = 4e-7
"""Of the norm of a second moment: what products in float32 may be off by, below zero where fewer rows were seen than
there are inputs."""


def damped_inputs(inputs: Tensor) -> Tensor:
    """The second moment (n, n) with a little of the unit matrix, of which every input has some."""
    moment = inputs.double()
    moment = (moment + moment.T) / 2
    mean = float(moment.diagonal().mean())
    amount = max(DAMPING * mean, ROUNDED * float(moment.norm())) if mean > 0 else DAMPING
    return moment + amount * torch.eye(len(moment), dtype=torch.float64)


def axis_root(moment: Tensor, sizes: Sequence[int], axis: int) -> Tensor:
    """The Cholesky factor (nk, nk) of one axis' moment; `sizes` multiply to n.

    Eigenvalues that are not above zero, which a mean taken out of sums of float32 products can leave, are lifted.
    """
    before, own, behind = prod(sizes[:axis]), sizes[axis], prod(sizes[axis + 1 :])
    cut = moment.reshape(before, own, behind, before, own, behind)
    found = torch.einsum("anbamb->nm", cut)
    found = (found + found.T) / 2
    root, failed = torch.linalg.cholesky_ex(found)
    if int(failed) == 0:
        return root
    values, vectors = torch.linalg.eigh(found)
    return torch.linalg.cholesky((vectors * values.clamp_min(DAMPING * float(values.max()))) @ vectors.T)


def whitened_basis(unfolding: Tensor, root: Tensor, rank: int) -> Tensor:
    """Orthonormal columns (nk, rank) that keep most of the whitened unfolding (nk, everything else)."""
    vectors = leading(root.T @ unfolding.double(), rank)
    # Rows of V' are v' S^-1; an orthonormal basis of them spans the same, and is kinder to what follows.
    return torch.linalg.qr(torch.linalg.solve_triangular(root.T, vectors, upper=True)).Q
