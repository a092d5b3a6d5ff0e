"""Scales of the inputs of a weight-only layer, searched so that the columns that matter round finely.

W x = (W S)(S^-1 x) with S = diag(s). Rounding W S in groups moves each column's rounding error by 1 / s_j while the
groups' steps grow little, so columns that read large activations should get large s_j:

    s_j = mean|X_j|^a,     a = argmin  || (W - round(W S) S^-1) X ||^2      over a grid of a in [0, 1]

Reference: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization" (arXiv:2306.00978), equations 4 and 5. Scales
are divided by sqrt(max s * min s), as in the authors' implementation. a = 0 is plain rounding, so the search never
loses against it on the data that it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lissom.functional.gptq import output_error
from lissom.functional.weightgrid import Grid

STRENGTHS = tuple(i / 20 for i in range(21))


@dataclass(frozen=True, eq=False)
class Scaling:
    """Scales of the inputs (n,), the strength a that made them, and the squared error of the outputs with them."""

    scales: Tensor
    strength: float
    error: float


def awq_scales(weight: Tensor, magnitude: Tensor, moments: Tensor, make: Callable[[Tensor], Grid]) -> Scaling:
    """The best scales for `weight` (rows, n); `magnitude` (n,) is mean|X_j|, `moments` (n, n) is X'X.

    `make` gives the grid of a scaled weight.
    """
    weight = weight.detach().float()
    best: Scaling | None = None
    for strength in STRENGTHS:
        raw = magnitude.float().clamp_min(1e-4 * float(magnitude.max())).clamp_min(1e-30).pow(strength)
        scales = raw / (raw.max() * raw.min()).sqrt()
        scaled = weight * scales
        error = output_error(make(scaled).rounded(scaled) / scales - weight, moments)
        if best is None or error < best.error:
            best = Scaling(scales, strength, error)
    assert best is not None
    return best
