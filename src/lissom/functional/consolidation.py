"""Elastic weight consolidation: weights that earlier tasks need are held where they were.

    penalty(w) = lambda / 2 sum_k sum_i F_k,i (w_i - w*_k,i)^2        Kirkpatrick et al. 2017 (arXiv:1612.00796), eq. 3

with F_k the diagonal of the Fisher information of task k at its solution w*_k. A sum of quadratics is one quadratic:

    F = sum_k F_k,   P = sum_k F_k w*_k,     penalty(w) = lambda / 2 sum_i F_i (w_i - P_i / F_i)^2 + constant

so that memory does not grow with the tasks. The online form forgets at the rate gamma and is centred on the last
solution (Schwarz et al. 2018, arXiv:1805.06370, section 3.2; Huszár 2018):

    F <- gamma F + F_k,   P = F w*_k

The diagonal is an expectation over the model's own answers y ~ p(y | x), not over the labels:

    F_i = E_x E_y (d log p(y | x) / d w_i)^2
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def summed(
    fisher: Mapping[str, Tensor], pull: Mapping[str, Tensor], found: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """F and P with one more task's Fisher `found` at `weights`; both may be empty at first."""
    new = {name: found[name] + fisher.get(name, 0.0) for name in found}
    return new, {name: found[name] * weights[name] + pull.get(name, 0.0) for name in found}


def faded(
    fisher: Mapping[str, Tensor], found: Mapping[str, Tensor], weights: Mapping[str, Tensor], gamma: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """F and P of the online form."""
    new = {name: found[name] + gamma * fisher.get(name, torch.zeros(())) for name in found}
    return new, {name: new[name] * weights[name] for name in new}


def penalty(weights: Mapping[str, Tensor], fisher: Mapping[str, Tensor], pull: Mapping[str, Tensor]) -> Tensor:
    """Half the sum of squares, without lambda and without the constant; weights that nothing needs are free."""
    parts: list[Tensor] = []
    for name, weight in weights.items():
        strength = fisher[name]
        centre = torch.where(strength > 0, pull[name] / strength.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
        parts.append((strength * (weight - centre).square()).sum())
    return torch.stack(parts).sum() / 2
