"""A Gaussian process in closed form, for few rows: what a prediction is off by, and how unsure that is.

    k(x, x') = x · x' + exp(-|x - x'|^2 / 2),      A = K + noise I
    mean(x)  = k(x)' A^-1 y,                       var(x) = s^2 (k(x, x) - k(x)' A^-1 k(x))

The linear part carries a trend as far as it goes, the other one forgets beyond a distance of 1. The amplitude has an
inverse gamma prior, worth `PRIOR_ROWS` rows of variance `prior^2`:

    s^2 = (PRIOR_ROWS prior^2 + y' A^-1 y) / (PRIOR_ROWS + n)

Reference: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 2.25 and 2.26.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
NOISE = 0.05
"""Variance of a measurement beside that of the process."""
PRIOR_ROWS = 2.0


@dataclass(frozen=True, eq=False)
class Process:
    """Fitted to rows (n, d); `fit` makes one."""

    rows: Array
    inverse: Array
    """Of K + noise I."""
    weights: Array
    variance: float
    """s^2."""

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, without the noise, at rows (m, d)."""
        across = kernel(rows, self.rows)
        own = np.square(rows).sum(axis=1) + 1.0
        left = own - np.einsum("ij,jk,ik->i", across, self.inverse, across)
        return across @ self.weights, np.sqrt(self.variance * np.maximum(left, 0.0))


def kernel(left: Array, right: Array) -> Array:
    """(n, m) of rows (n, d) and (m, d)."""
    apart = np.square(left[:, None] - right[None]).sum(axis=2)
    return left @ right.T + np.exp(-0.5 * apart)


def fit(rows: Array, values: Array, *, prior: float) -> Process:
    """`values` (n,) have mean zero beforehand and a standard deviation of about `prior`."""
    inverse: Array = np.linalg.inv(kernel(rows, rows) + NOISE * np.eye(len(rows))).astype(np.float64)
    weights = inverse @ values
    variance = (PRIOR_ROWS * prior**2 + float(values @ weights)) / (PRIOR_ROWS + len(rows))
    return Process(rows, inverse, weights, variance)
