"""Least squares from second moments, in one pass over any number of rows.

A layer that lost inputs is fitted again to what the whole layer computed (He, Zhang and Sun, "Channel Pruning for
Accelerating Very Deep Neural Networks", ICCV 2017, equation 2, with the kept channels given):

    min over W, b of   sum over rows |y - W x - b|^2  +  l tr((W - W0) D (W - W0)')

x are the inputs that are left, W0 the weights that were sliced, D the diagonal of the inputs' covariance C, so that l
is free of units. With means taken out the solution is

    W = (Y'X + l W0 D) (C + l D)^-1,      b = mean(y) - W mean(x)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEPS, CLOSE = 200, 1e-16
"""Conjugate gradients: at most so many, and the share of the squared residual that ends them."""


@dataclass(eq=False)
class Moments:
    """Sums over rows of inputs (rows, d) and wanted outputs (rows, k), in float64."""

    xx: Tensor
    """(d, d)"""
    yx: Tensor
    """(k, d)"""
    x: Tensor
    y: Tensor
    rows: int = 0

    @classmethod
    def of(cls, inputs: int, outputs: int) -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        return cls(zeros(inputs, inputs), zeros(outputs, inputs), zeros(inputs), zeros(outputs))

    def add_(self, inputs: Tensor, wanted: Tensor) -> None:
        # Products in the type of the data, sums over batches in float64.
        self.xx += (inputs.T @ inputs).double()
        self.yx += (wanted.T @ inputs).double()
        self.x += inputs.sum(0).double()
        self.y += wanted.sum(0).double()
        self.rows += inputs.shape[0]


def solve(moments: Moments, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The fitted weights (k, d) and bias (k,). `start` (k, d) is what the ridge pulls to.

    Inputs that never vary keep their starting weight.
    """
    mean_x, mean_y = moments.x / moments.rows, moments.y / moments.rows
    covariance = moments.xx / moments.rows - torch.outer(mean_x, mean_x)
    cross = moments.yx / moments.rows - torch.outer(mean_y, mean_x)
    scale = covariance.diagonal().clamp_min(0)
    alive = scale > 1e-12 * scale.max().clamp_min(1e-30)
    pull = torch.where(alive, ridge * scale, torch.ones_like(scale))
    live = alive.to(scale.dtype)
    left = covariance * torch.outer(live, live) + torch.diag(pull)
    first = start.double()
    right = cross * live + first * pull
    weights = torch.linalg.solve(left, right.T).T
    return weights.to(start.dtype), (mean_y - weights @ mean_x).to(start.dtype)


def solve_through_origin(xx: Tensor, yx: Tensor, start: Tensor, ridge: float, alive: Tensor | None = None) -> Tensor:
    """The fitted weights (k, d) where no bias is left to choose: means stay in, D is the diagonal of `xx` = X'X (d, d).

    `yx` = Y'X is (k, d). Inputs that are always zero keep their starting weight. Only weights that are `alive` (k, d)
    are fitted where that is given, the others are zero.
    """
    energy = xx.double().diagonal()
    loud = (energy > 1e-12 * energy.max().clamp_min(1e-30)).double()
    pull = torch.where(loud > 0, ridge * energy, torch.ones_like(energy))
    left = xx.double() * torch.outer(loud, loud) + torch.diag(pull)
    right = yx.double() * loud + start.double() * pull
    if alive is not None:
        return _solve_inside(left, right, start.double() * alive, alive.double()).to(start.dtype)
    return torch.linalg.solve(left, right.T).T.to(start.dtype)


def _solve_inside(left: Tensor, right: Tensor, start: Tensor, alive: Tensor) -> Tensor:
    """W with (W `left` - `right`) zero where `alive`, W zero elsewhere: every row has a system of its own.

    Conjugate gradients on all rows at once, scaled by the diagonal, from `start` on: after any number of steps no row
    is worse than there.
    """
    found, diagonal = start, left.diagonal()
    rest = (right - found @ left) * alive
    ahead = rest / diagonal
    size = (rest * ahead).sum(1, keepdim=True)
    enough = CLOSE * size
    for _ in range(STEPS):
        if bool((size <= enough).all()):
            break
        moved = (ahead @ left) * alive
        step = size / (ahead * moved).sum(1, keepdim=True).clamp_min(1e-300)
        found = found + step * ahead
        rest = rest - step * moved
        scaled = rest / diagonal
        before, size = size, (rest * scaled).sum(1, keepdim=True)
        ahead = scaled + size / before.clamp_min(1e-300) * ahead
    return found
