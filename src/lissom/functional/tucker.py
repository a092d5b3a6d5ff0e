"""Tucker-2: a convolution between two 1x1 convolutions.

    W[o, i, k] = sum over a, b of  U[o, a] G[a, b, k] V[i, b]            W (out, in, *kernel), U (out, ro), V (in, ri)

Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications"
(arXiv:1511.06530).

Plain     U and V start as the first left singular vectors of the unfoldings of W (HOSVD; its squared error is at most
          the sum of the squares of the singular values left out of both unfoldings: De Lathauwer et al. 2000, "A
          Multilinear Singular Value Decomposition", property 10), then each is taken again with the other one given
          (HOOI: De Lathauwer et al. 2000, "On the Best Rank-1 and Rank-(R1, ..., RN) Approximation", algorithm 4.2).
          The error never grows. Singular vectors are those of Gram matrices (`svd`, precision).

Aware     min of ||(W - W') C^1/2||_F^2 with C the second moment of what the kernel sees. With V given, U and G have a
          closed form (`hooi.regressed`). V comes from the unfolding of the input channels, whitened by their own
          second moment (`whitening`). The plain V is tried as well and the better of the two stays, so that the output
          error on the data is never above the plain one's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lissom.functional.hooi import aware_spectra, regressed, unfolding
from lissom.functional.svd import output_error, singular_values
from lissom.functional.whitening import axis_root, damped_inputs, whitened_basis

SWEEPS = 10
SETTLED = 2e-4
"""Of the squared error: the gain of a sweep below which HOOI stops."""
SINGLE = 1e-3
"""Share of the energy left out from which on float32 is enough: roundings are a thousand times below."""


class Tucker(NamedTuple):
    """U (out, ro), G (ro, ri, *kernel), V (in, ri), float64."""

    outputs: Tensor
    core: Tensor
    inputs: Tensor

    def weight(self) -> Tensor:
        """What they stand for, (out, in, *kernel)."""
        flat = torch.einsum("oa,abk,ib->oik", self.outputs, self.core.flatten(2), self.inputs)
        return flat.reshape(*flat.shape[:2], *self.core.shape[2:])


def spectra(weight: Tensor, inputs: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Singular values of the output and of the input unfolding, whitened by the second moment (n, n) if it is given."""
    if inputs is None:
        return singular_values(unfolding(weight, 0)), singular_values(unfolding(weight, 1))
    outputs, channels, _ = aware_spectra(weight.flatten(2), inputs)
    return outputs, channels


def tucker(weight: Tensor, ranks: tuple[int, int]) -> Tucker:
    """The plain decomposition at ranks (ro, ri)."""
    w = weight.double().flatten(2)
    found, left_out = _alternated(w.float(), ranks)
    if not left_out > SINGLE:
        found, _ = _alternated(w, ranks)
    outputs, core, inputs = (part.double() for part in found)
    return Tucker(outputs, core.reshape(*ranks, *weight.shape[2:]), inputs)


def _alternated(w: Tensor, ranks: tuple[int, int]) -> tuple[Tucker, float]:
    """Of a weight (out, in, kernel), in its type, and the share of its energy that is left out."""
    outs, ins, kernel = w.shape
    rows = w.transpose(1, 2).reshape(-1, ins)  # (out kernel, in): all products below are of two matrices, as they lie
    sides = rows.reshape(outs, -1)
    total = float(rows.square().sum())
    inputs = _first(rows.T @ rows, ranks[1])
    outputs, half, kept = inputs, rows, -1.0
    for _ in range(SWEEPS):
        given = (rows @ inputs).reshape(outs, -1)
        outputs = _first(given @ given.T, ranks[0])
        half = (outputs.T @ sides).reshape(-1, ins)
        gram = half.T @ half
        inputs = _first(gram, ranks[1])
        before, kept = kept, float(((gram @ inputs) * inputs).sum())
        if kept - before <= SETTLED * (total - kept):
            break
    core = (half @ inputs).reshape(ranks[0], kernel, ranks[1]).transpose(1, 2)
    return Tucker(outputs, core, inputs), (total - kept) / total if total > 0 else 0.0


def _first(gram: Tensor, rank: int) -> Tensor:
    """The first eigenvectors (n, rank) of a symmetric matrix."""
    return torch.linalg.eigh(gram).eigenvectors.flip(1)[:, :rank]


def aware_tucker(weight: Tensor, inputs: Tensor, ranks: tuple[int, int]) -> Tucker:
    """The decomposition whose outputs are nearest, for the second moment (n, n) of what the kernel sees."""
    moment, flat = damped_inputs(inputs), weight.double().flatten(2)
    aware = whitened_basis(unfolding(weight.double(), 1), axis_root(moment, flat.shape[1:], 0), ranks[1])
    found: list[Tucker] = []
    for side in (aware, tucker(weight, ranks).inputs):
        outputs, core = regressed(flat, moment, (side, None), ranks[0])
        found.append(Tucker(outputs, core.reshape(*core.shape[:2], *weight.shape[2:]), side))
    return min(found, key=lambda one: output_error((weight.double() - one.weight()).flatten(1), moment))
