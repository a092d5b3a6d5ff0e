"""GPTQ: weights rounded one column after the other, the columns that are left making up for the error.

For every row w of a layer the squared error of the outputs over the data is (w - q)' H (w - q), H = X'X (of any
scale). Once column j is rounded to q_j, the best real values of the columns F to its right are

    w_F <- w_F - (w_j - q_j) / [H_F^-1]_jj * [H_F^-1]_{:,j}            F: column j and all to the right of it

and row j of the upper Cholesky factor of H^-1 is [H_F^-1]_{j,:} / sqrt([H_F^-1]_jj), so one factorization serves all
rows and columns. Updates outside a block of columns are applied once per block.

Reference: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv:2210.17323), algorithm 1; the step is that of Optimal Brain Surgeon (Hassibi and Stork 1993). Deviation: the
grid is fixed beforehand for all groups, so that it does not depend on the order of the columns; an input that is
always zero leaves its weights to plain rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.functional.weightgrid import Grid


def gptq(
    weight: Tensor,
    moments: Tensor,
    grid: Grid,
    *,
    block: int = 128,
    damping: float = 0.01,
    by_energy: bool = False,
    alive: Tensor | None = None,
) -> Tensor:
    """Steps of `grid` for `weight` (rows, n), given X'X of its inputs (n, n); whole numbers, float32.

    `damping` times the mean diagonal is added to the diagonal. `by_energy` visits the columns with the largest
    diagonal first (the paper's implementation calls it act-order) instead of from left to right. Weights that are not
    `alive` (rows, n) get the step of zero, and the columns that are left make up for what that takes.
    """
    n = weight.shape[1]
    hessian = moments.detach().double().clone()
    diagonal = hessian.diagonal()
    dead = diagonal <= 0
    diagonal[dead] = 1.0
    diagonal += damping * diagonal[~dead].mean() if not dead.all() else 0.0
    order = diagonal.argsort(descending=True, stable=True) if by_energy else torch.arange(n)
    left = weight.detach().double()[:, order].clone()
    kept = None if alive is None else alive[:, order]
    scales, zeros = grid.scales(n).double()[:, order], grid.zeros(n).double()[:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    found = torch.empty_like(left)
    for start in range(0, n, block):
        stop = min(start + block, n)
        now, own = left[:, start:stop], factor[start:stop, start:stop]
        errors = torch.zeros_like(now)
        for j in range(stop - start):
            at = start + j
            steps = torch.round(now[:, j] / scales[:, at] + zeros[:, at]).clamp(grid.low, grid.high)
            if kept is not None:
                steps = torch.where(kept[:, at], steps, zeros[:, at])
            found[:, at] = steps
            errors[:, j] = (now[:, j] - (steps - zeros[:, at]) * scales[:, at]) / own[j, j]
            now[:, j:] -= torch.outer(errors[:, j], own[j, j:])
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    back = torch.empty_like(found)
    back[:, order] = found
    return back.float()


def gptq_by_row(weight: Tensor, moments: Tensor, grid: Grid, alive: Tensor | None = None) -> Tensor:
    """Steps (rows, n) by GPTQ in the order of energy, and the nearest ones in the rows where those disturb the outputs
    less: GPTQ decides column by column, and nothing holds it to be better in the end."""
    fitted, near = gptq(weight, moments, grid, by_energy=True, alive=alive), grid.steps(weight.float())
    errors = [row_errors(grid.restored(steps) - weight, moments) for steps in (fitted, near)]
    return torch.where((errors[0] < errors[1])[:, None], fitted, near)


def row_errors(change: Tensor, moments: Tensor) -> Tensor:
    """Squared error of each output (rows,), summed over the data, when a weight (rows, n) moves by `change`."""
    change = change.double()
    return ((change @ moments.double()) * change).sum(1)


def output_error(change: Tensor, moments: Tensor) -> float:
    """Squared error of the outputs, summed over rows and data, when a weight (rows, n) moves by `change`."""
    return float(row_errors(change, moments).sum())
