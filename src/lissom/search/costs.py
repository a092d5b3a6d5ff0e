"""What a candidate will cost, before it is made: a prior, corrected by every candidate that was measured whole.

    log (cost of p / cost of the original) = sum over features k of theta_k x_k(p)

    x(p) = (log prune, log rank, -log (1 - depth), one indicator for each precision)
    theta = argmin  sum_i (y_i - theta · x_i)^2 + lambda |theta - theta_0|^2          (ridge towards the prior)

theta_0 says what arithmetic says: a cost proportional to MACs falls with prune and rank, int8 files are a quarter. The
original has x = 0 and costs 1 exactly. What the fit is off by is told by leaving one out, in closed form (Allen 1974,
"The relationship between variable selection and data augmentation and a method for prediction", equation 2.4):

    e_i = (y_i - theta · x_i) / (1 - h_ii),     H = X (X'X + lambda I)^-1 X'

and the mean |exp(e_i) - 1| is the model's relative error: its uncertainty. The same model with other features
tells the drop (`Losses`). Latency has a finer model where its layers were timed (`search.latency`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lissom.search.space import Point, Precision

Array = npt.NDArray[np.float64]
PRECISIONS: tuple[Precision, ...] = ("float16", "int8", "dynamic", "int4")
RIDGE = 0.1
"""Of a squared error in logarithms: one measured candidate outweighs the prior when it differs by a factor of 1.4."""
UNKNOWN = 0.3
"""Relative error that is assumed before three candidates were measured."""

# Exponents of prune, rank, depth; then the share that is left with float16, int8, dynamic, int4.
_PRIORS: dict[str, tuple[float, float, float, float, float, float, float]] = {
    "latency": (-0.7, -0.5, -0.9, 1.0, 0.6, 0.8, 0.7),
    "size": (-1.0, -0.8, -1.0, 0.5, 0.27, 0.3, 0.16),
    "MACs": (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0),
    "parameters": (-1.0, -0.8, -1.0, 1.0, 1.0, 1.0, 1.0),
    "energy": (-0.7, -0.5, -0.9, 1.0, 0.6, 0.8, 0.7),
    "memory": (-0.5, -0.3, -0.5, 0.8, 0.7, 0.8, 0.6),
}
# Drop of everything gone by prune, rank, depth; then of each precision.
_DROPS = (0.3, 0.3, 0.3, 0.0, 0.004, 0.004, 0.02)


def prior_share(cost: str, precision: Precision) -> float:
    """What a precision leaves of a cost before anything was measured."""
    return 1.0 if precision == "float32" else _PRIORS[cost][3 + PRECISIONS.index(precision)]


def _costly(point: Point) -> list[float]:
    return [math.log(point.prune), math.log(point.rank), -math.log(1.0 - point.depth), *_precision(point)]


def _losing(point: Point) -> list[float]:
    """Squares: the first channels cost little, the last everything."""
    return [(1.0 - 1.0 / point.prune) ** 2, (1.0 - 1.0 / point.rank) ** 2, point.depth**2, *_precision(point)]


def _precision(point: Point) -> list[float]:
    return [float(point.precision == one) for one in PRECISIONS]


@dataclass(frozen=True)
class Costs:
    """A fitted model of one cost. `error` is relative: the mean of leaving one out, or `UNKNOWN`."""

    theta: Array
    error: float

    def predict(self, points: Sequence[Point]) -> Array:
        """Shares of the original's cost."""
        return np.exp(np.array([_costly(p) for p in points]).reshape(-1, len(self.theta)) @ self.theta)


def fit_costs(cost: str, points: Sequence[Point], shares: Sequence[float]) -> Costs:
    """From candidates measured whole: `shares` of the original's cost, all above 0."""
    prior = _PRIORS[cost]
    start = np.array([*prior[:3], *(math.log(share) for share in prior[3:])])
    rows = np.array([_costly(p) for p in points]).reshape(-1, len(start))
    theta, left_out = _ridge(rows, np.log(np.asarray(shares, dtype=np.float64)), start)
    told = left_out[rows.any(axis=1)] if len(points) else left_out
    return Costs(theta, float(np.abs(np.expm1(told)).mean()) if len(told) >= 3 else UNKNOWN)


@dataclass(frozen=True)
class Losses:
    """A fitted model of the drop of the metric."""

    theta: Array

    def predict(self, points: Sequence[Point]) -> Array:
        return np.array([_losing(p) for p in points]).reshape(-1, len(self.theta)) @ self.theta


def fit_losses(points: Sequence[Point], drops: Sequence[float]) -> Losses:
    """Nothing gains: what would lower the drop counts as doing nothing to it."""
    rows = np.array([_losing(p) for p in points]).reshape(-1, len(_DROPS))
    theta, _ = _ridge(rows, np.asarray(drops, dtype=np.float64), np.array(_DROPS))
    return Losses(np.maximum(theta, 0.0))


def _ridge(rows: Array, wanted: Array, start: Array) -> tuple[Array, Array]:
    """Coefficients, and for every row what the fit without it would be off by."""
    gram = rows.T @ rows + RIDGE * np.eye(len(start))
    residual = wanted - rows @ start
    theta = start + np.linalg.solve(gram, rows.T @ residual)
    leverage = np.einsum("ij,ji->i", rows, np.linalg.solve(gram, rows.T))
    return theta, (wanted - rows @ theta) / (1.0 - leverage)
