"""Second moments of a layer with the errors that its inputs will have when the layers before it are approximated too.

They are taken as noise of one variance v in all inputs, independent of these, which has the share s of the energy that
the data have in the outputs. With C (n, n) of the inputs, O = W C W' (m, m) of the outputs:

    C_s = C + v I,    O_s = W C_s W' = O + v W W',    v = s tr(O) / tr(W W')

so that an error D of the weight costs tr(D C D') + v ||D||_F^2: the aware and the plain objective, weighed. Small s is
the first, large s the second. Noise in the inputs as a penalty on the weights: Bishop 1995, "Training with Noise is
Equivalent to Tikhonov Regularization" (Neural Computation 7).
"""

from __future__ import annotations

import torch
from torch import Tensor


def noisy_inputs(weight: Tensor, inputs: Tensor, share: float) -> Tensor:
    """C_s (n, n), float64, of a weight (m, n) and the second moment of what it multiplies."""
    rows, moment = weight.double(), inputs.double()
    variance = _variance(rows, float(((rows @ moment) * rows).sum()), share)
    return moment + variance * torch.eye(len(moment), dtype=torch.float64)


def noisy_outputs(weight: Tensor, outputs: Tensor, share: float) -> Tensor:
    """O_s (m, m), float64, of a weight (m, n) and the second moment of its products, on any scale."""
    rows, moment = weight.double(), outputs.double()
    return moment + _variance(rows, float(moment.trace()), share) * (rows @ rows.T)


def _variance(rows: Tensor, energy: float, share: float) -> float:
    own = float(rows.square().sum())
    return share * max(energy, 0.0) / own if own > 0 else 0.0
