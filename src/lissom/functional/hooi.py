"""Full Tucker: a tensor as a small core and one matrix for each axis.

    T[n1, .., nd] = sum over a1 .. ad of  G[a1, .., ad] U1[n1, a1] ... Ud[nd, ad]           Uk (nk, rk), G (r1, .., rd)

HOSVD     Uk starts as the first left singular vectors of the k-th unfolding. With e_k the tail of its singular values,
          max of e_k^2 <= best squared error <= HOSVD's <= sum of e_k^2 (De Lathauwer, De Moor, Vandewalle 2000, "A
          Multilinear Singular Value Decomposition", property 10).
HOOI      each Uk again with the others given, until the core grows no more; the error never grows (the same authors,
          "On the Best Rank-1 and Rank-(R1, ..., RN) Approximation of Higher-Order Tensors", algorithm 4.2).

All Uk have orthonormal columns, and the squared error is ||T||^2 - ||G||^2. For tensors of interactions, (user, item,
context): the Uk are the tables. For a convolution T is its weight (out, in, *kernel); with the axes of the kernel at
their full ranks this is `lissom.functional.tucker`.

Aware     of a weight, the error counts as it does in the outputs: ||(W - W') C^1/2||_F^2 with C the second moment of
          what the kernel sees (`whitening`). With all factors of the input side given, U of the outputs and G are a
          reduced-rank regression of W x on z = (V (x) P1 (x) .. )' x, which has a closed form (Izenman 1975,
          "Reduced-rank regression for the multivariate linear model"): with B = W C Z' (Z C Z')^-1 the least squares,

              U = first eigenvectors of B Z C Z' B',     G = U' B.

          The factors of the input side come from the whitened unfoldings. The plain ones are tried as well and the
          better of the two stays: the outputs on the data are never further than with the plain decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lissom.functional.svd import leading, output_error, singular_values
from lissom.functional.whitening import axis_root, damped_inputs, whitened_basis

SWEEPS = 20
SETTLED = 1e-8
"""Of the kept energy: the gain of a sweep below which it stops."""


class Multilinear(NamedTuple):
    """G (r1, .., rd) and U1 (n1, r1), .., Ud (nd, rd), float64."""

    core: Tensor
    factors: tuple[Tensor, ...]

    def whole(self) -> Tensor:
        """What they stand for, (n1, .., nd)."""
        return moved(self.core, [factor.T for factor in self.factors])


def unfolding(tensor: Tensor, axis: int) -> Tensor:
    """(size of the axis, everything else)"""
    return tensor.movedim(axis, 0).flatten(1)


def spectra(tensor: Tensor) -> tuple[Tensor, ...]:
    """Singular values of all d unfoldings."""
    return tuple(singular_values(unfolding(tensor, axis)) for axis in range(tensor.ndim))


def aware_spectra(weight: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
    """Singular values of all unfoldings of a weight (out, in, *kernel), whitened by the second moment (n, n)."""
    moment, sizes = damped_inputs(inputs), weight.shape[1:]
    rows = weight.double().flatten(1)
    outputs = torch.linalg.eigvalsh(rows @ moment @ rows.T).flip(0)[: rows.shape[1]].clamp_min(0).sqrt()
    others = (
        singular_values(axis_root(moment, sizes, axis).T @ unfolding(weight.double(), 1 + axis))
        for axis in range(len(sizes))
    )
    return (outputs, *others)


def hosvd(tensor: Tensor, ranks: Sequence[int]) -> Multilinear:
    """The truncated higher-order SVD.

    Raises:
        ValueError: not one rank for each axis, or one outside of [1, size of the axis].
    """
    sizes = tuple(tensor.shape)
    if len(ranks) != len(sizes) or not all(1 <= rank <= size for rank, size in zip(ranks, sizes, strict=True)):
        raise ValueError(f"a tensor of {sizes} has one rank for each axis, from 1 to its size, got {tuple(ranks)}")
    whole = tensor.double()
    factors = tuple(leading(unfolding(whole, axis), rank) for axis, rank in enumerate(ranks))
    return Multilinear(moved(whole, factors), factors)


def hooi(tensor: Tensor, ranks: Sequence[int], sweeps: int = SWEEPS) -> Multilinear:
    """The decomposition of locally least error.

    Raises:
        ValueError: as `hosvd`.
    """
    whole = tensor.double()
    found = hosvd(whole, ranks)
    factors = list(found.factors)
    kept = float(found.core.square().sum())
    for _ in range(sweeps):
        for axis, rank in enumerate(ranks):
            others = [None if k == axis else factor for k, factor in enumerate(factors)]
            factors[axis] = leading(unfolding(moved(whole, others), axis), rank)
        core = moved(whole, factors)
        now = float(core.square().sum())
        found = Multilinear(core, tuple(factors))
        if now - kept <= SETTLED * now:
            break
        kept = now
    return found


def aware_hooi(weight: Tensor, inputs: Tensor, ranks: Sequence[int]) -> Multilinear:
    """Of a weight (out, in, *kernel), with the outputs near, for the second moment (n, n) of what the kernel sees.

    Raises:
        ValueError: as `hosvd`.
    """
    plain = hooi(weight, ranks)
    moment, sizes, whole = damped_inputs(inputs), weight.shape[1:], weight.double()
    aware = [
        whitened_basis(unfolding(whole, 1 + axis), axis_root(moment, sizes, axis), rank)
        for axis, rank in enumerate(ranks[1:])
    ]
    found: list[Multilinear] = []
    for sides in (aware, plain.factors[1:]):
        outputs, core = regressed(whole, moment, sides, ranks[0])
        found.append(Multilinear(core, (outputs, *sides)))
    return min(found, key=lambda one: output_error((whole - one.whole()).flatten(1), moment))


def regressed(weight: Tensor, moment: Tensor, sides: Sequence[Tensor | None], rank: int) -> tuple[Tensor, Tensor]:
    """The best U (out, rank) and G (rank, r1, ..) for given factors of the axes behind the first; None: left whole."""
    rows, sizes = weight.flatten(1), weight.shape[1:]
    half = moved(moment.reshape(*sizes, -1), [*sides, None])  # sum of z x'
    kept = half.shape[:-1]
    half = half.flatten(0, -2)
    own = moved(half.reshape(-1, *sizes), [None, *sides]).reshape(len(half), -1)  # of z z'
    own = (own + own.T) / 2
    fitted = torch.linalg.solve(own, half @ rows.T).T
    gram = fitted @ own @ fitted.T
    outputs = torch.linalg.eigh((gram + gram.T) / 2).eigenvectors.flip(1)[:, :rank]
    return outputs, (outputs.T @ fitted).reshape(-1, *kept)


def moved(tensor: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
    """Every axis multiplied by its matrix (n, r), where there is one."""
    for axis, factor in enumerate(factors):
        if factor is not None:
            tensor = (tensor.movedim(axis, -1) @ factor).movedim(-1, axis)
    return tensor
