"""Spatial SVD: a kernel of (kh, kw) as a column of (kh, 1) followed by a row of (1, kw).

    W[o, i, y, x] = sum over r of  H[o, r, x] V[r, i, y]                W (out, in, kh, kw)

which is a matrix of rank r with rows (o, x) and columns (i, y). Jaderberg et al. 2014, "Speeding up Convolutional
Neural Networks with Low Rank Expansions" (arXiv:1405.3866), scheme 2; closed form: Tai et al. 2016 (arXiv:1511.06067),
theorem 1.

Aware     the rows of the matrix are whitened by the second moment of what a column of the kernel sees (C summed over
          x), which gives V; H is then the least squares on the whole second moment C,

              H = W C Z' (Z C Z')^-1,     z[r, x] = sum over i, y of V[r, i, y] x[i, y, x].

          The plain V is tried as well and the better of the two stays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lissom.functional import svd
from lissom.functional.whitening import axis_root, damped_inputs


class Spatial(NamedTuple):
    """V (r, in, kh, 1) and H (out, r, 1, kw), float64."""

    column: Tensor
    row: Tensor

    def weight(self) -> Tensor:
        """What they stand for, (out, in, kh, kw)."""
        return torch.einsum("orx,riy->oiyx", self.row[:, :, 0], self.column[..., 0])


def matrix_of(weight: Tensor) -> Tensor:
    """(out kw, in kh)"""
    return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def singular_values(weight: Tensor, inputs: Tensor | None = None) -> Tensor:
    """Of that matrix, whitened by the second moment (n, n) of what the kernel sees if it is given."""
    matrix = matrix_of(weight).double()
    if inputs is not None:
        matrix = matrix @ _column_root(weight, damped_inputs(inputs))
    return svd.singular_values(matrix)


def spatial(weight: Tensor, rank: int) -> Spatial:
    """The plain decomposition."""
    left, right = svd.factors(matrix_of(weight), rank)
    return _shaped(weight, left, right)


def aware_spatial(weight: Tensor, inputs: Tensor, rank: int) -> Spatial:
    """The decomposition with the better outputs, for the second moment (n, n) of what the kernel sees."""
    moment = damped_inputs(inputs)
    root = _column_root(weight, moment)
    whitened = matrix_of(weight).double() @ root
    right = svd.decompose(whitened)[2][:rank]
    right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    found = [_fitted(weight, moment, start) for start in (right, svd.factors(matrix_of(weight), rank).right)]
    rows = weight.double()
    return min(found, key=lambda one: svd.output_error((rows - one.weight()).flatten(1), moment))


def _fitted(weight: Tensor, moment: Tensor, right: Tensor) -> Spatial:
    """The best H for V = `right` (r, in kh)."""
    outs, ins, high, wide = weight.shape
    rank = len(right)
    column = torch.linalg.qr(right.T).Q.T.reshape(rank, ins, high)
    half = torch.einsum("riy,iyxn->rxn", column, moment.reshape(ins, high, wide, -1)).reshape(rank * wide, -1)
    own = torch.einsum("riy,ziyx->zrx", column, half.reshape(-1, ins, high, wide)).reshape(rank * wide, rank * wide)
    row = torch.linalg.solve((own + own.T) / 2, half @ weight.double().flatten(1).T).T
    row = row.reshape(outs, rank, wide)
    left, right = svd.balanced(row.permute(0, 2, 1).flatten(0, 1), column.flatten(1))
    return _shaped(weight, left, right)


def _shaped(weight: Tensor, left: Tensor, right: Tensor) -> Spatial:
    outs, ins, high, wide = weight.shape
    row = left.reshape(outs, wide, -1).permute(0, 2, 1)
    return Spatial(right.reshape(-1, ins, high, 1), row.unsqueeze(2))


def _column_root(weight: Tensor, moment: Tensor) -> Tensor:
    """Of what a column of the kernel sees, (in kh, in kh)."""
    _, ins, high, wide = weight.shape
    return axis_root(moment, (ins * high, wide), 0)
