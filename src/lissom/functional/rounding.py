"""AdaRound: for every weight of a layer, up or down, learned so that the layer's outputs change least.

The nearest step is the best for each weight alone, not for their sum. Weights are s (floor(w / s) + h(v)) with

    h(v) = clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1),     zeta = 1.1, gamma = -0.1

and v minimizes      E |f(W x + b) - f(W~ x~ + b)|^2 + lambda sum (1 - |2 h(v) - 1|^beta)

The second term pushes every h to 0 or 1. beta falls from 20 to 2 along a cosine, after a first part of the steps
without that term. x are the layer's inputs in the original, x~ those in the network as it is rounded so far; f is the
activation that follows (ReLU or none).

Reference: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization" (arXiv:2004.10568),
equations 21 to 25. Deviations: the error is measured in units of what rounding to the nearest loses per weight, so that
lambda means the same in every layer, and lambda and the learning rate are large, for a thousand steps instead of ten
thousand; rows of the layer's matrix product are drawn instead of whole images; the steps end early once no weight is
undecided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.functional.weightgrid import Grid

ZETA, GAMMA = 1.1, -0.1
BETA_FIRST, BETA_LAST = 20.0, 2.0
WARM = 0.2
"""Share of the steps without the term that decides."""


@dataclass(frozen=True)
class AdaRound:
    """How the rounding is learned. `rows` are drawn for each of at most `steps` steps of Adam."""

    steps: int = 1000
    rows: int = 256
    learning_rate: float = 0.1
    penalty: float = 10.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Rows:
    """What a layer reads, (rows, n), and what it should give, (rows, outputs), bias taken off; `bias` (outputs,)."""

    inputs: Tensor
    wanted: Tensor
    bias: Tensor | None = None
    relu: bool = False

    def gaps(self, weight: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """f(W~ x~ + b) - f(wanted + b), (rows, outputs)."""
        got, wanted = self.inputs[rows] @ weight.T, self.wanted[rows]
        if not self.relu:
            return got - wanted
        bias = 0.0 if self.bias is None else self.bias
        return (got + bias).relu() - (wanted + bias).relu()

    def error(self, weight: Tensor) -> float:
        """Mean over the rows of the squared error of all outputs."""
        return float(self.gaps(weight).square().sum(1).mean())

    def slope(self, weight: Tensor, rows: Tensor) -> Tensor:
        """Gradient of the mean squared error of the drawn rows by the weight, (outputs, n)."""
        gaps = self.gaps(weight, rows)
        if self.relu:
            bias = 0.0 if self.bias is None else self.bias
            gaps = gaps * (self.inputs[rows] @ weight.T + bias > 0)
        return 2 / len(rows) * gaps.T @ self.inputs[rows]


@torch.no_grad()
def adaround(
    weight: Tensor, grid: Grid, data: Rows, how: AdaRound | None = None, alive: Tensor | None = None
) -> Tensor:
    """Steps of `grid` for `weight` (outputs, n), each the one below or above; whole numbers, float32.

    Weights that are not `alive` (outputs, n) are zero and stay it. Falls back to the nearest steps where those have a
    smaller error on `data`.
    """
    how = how or AdaRound()
    weight = weight.detach().float()
    n = weight.shape[1]
    exact = weight / grid.scales(n) + grid.zeros(n)
    nearest = exact.round().clamp(grid.low, grid.high)
    start = data.error(grid.restored(nearest))
    if start <= 0 or len(data.inputs) == 0:
        return nearest
    below = exact.floor()
    moving = torch.ones_like(weight) if alive is None else alive.float()
    upper = _learn(exact - below, below, grid, data, how, weight.numel() / start, moving)
    found = (below + upper).clamp(grid.low, grid.high)
    return found if data.error(grid.restored(found)) < start else nearest


def _learn(part: Tensor, below: Tensor, grid: Grid, data: Rows, how: AdaRound, unit: float, moving: Tensor) -> Tensor:
    """1 where the step above is taken, else 0; what is not `moving` stays where it begins."""
    generator = torch.Generator().manual_seed(how.seed)
    share = ((part - GAMMA) / (ZETA - GAMMA)).clamp(1e-4, 1 - 1e-4)
    v = torch.log(share / (1 - share))
    mean, square = torch.zeros_like(v), torch.zeros_like(v)
    scales = grid.scales(part.shape[1])
    for step in range(how.steps):
        sigmoid = torch.sigmoid(v)
        raw = sigmoid * (ZETA - GAMMA) + GAMMA
        h = raw.clamp(0, 1)
        steps = below + h
        # A weight outside the grid does not move.
        inside = ((steps >= grid.low) & (steps <= grid.high)).float()
        rows = torch.randint(len(data.inputs), (min(how.rows, len(data.inputs)),), generator=generator)
        slope = data.slope(grid.restored(steps.clamp(grid.low, grid.high)), rows) * scales * unit * inside
        done = (step / how.steps - WARM) / (1 - WARM)
        if done >= 0:
            beta = BETA_LAST + 0.5 * (BETA_FIRST - BETA_LAST) * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
            side = 2 * h - 1
            slope = slope - how.penalty * 2 * beta * side.sign() * side.abs().pow(beta - 1)
            if step % 50 == 0 and bool(((h == 0) | (h == 1)).all()):
                break
        slope = slope * moving * ((raw > 0) & (raw < 1)) * (ZETA - GAMMA) * sigmoid * (1 - sigmoid)
        mean += (slope - mean) * 0.1
        square += (slope.square() - square) * 0.001
        bias = (1 - 0.9 ** (step + 1)), (1 - 0.999 ** (step + 1))
        v -= how.learning_rate * (mean / bias[0]) / ((square / bias[1]).sqrt() + 1e-8)
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA >= 0.5).float()
