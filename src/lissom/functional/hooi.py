"""Full Tucker: a tensor as a small core and one matrix for each axis.

    T[n1, .., nd] = sum over a1 .. ad of  G[a1, .., ad] U1[n1, a1] ... Ud[nd, ad]           Uk (nk, rk), G (r1, .., rd)

HOSVD     Uk starts as the first left singular vectors of the k-th unfolding. With e_k the tail of its singular values,
          max of e_k^2 <= best squared error <= HOSVD's <= sum of e_k^2 (De Lathauwer, De Moor, Vandewalle 2000, "A
          Multilinear Singular Value Decomposition", property 10).
HOOI      each Uk again with the others given, until the core grows no more; the error never grows (the same authors,
          "On the Best Rank-1 and Rank-(R1, ..., RN) Approximation of Higher-Order Tensors", algorithm 4.2).

All Uk have orthonormal columns, and the squared error is ||T||^2 - ||G||^2. For tensors of interactions, (user, item,
context): the Uk are the tables. Of a convolution, the two channel axes are `lissom.functional.tucker`: the axes of a
kernel are of size 3, where a rank of 3 saves nothing and one of 2 leaves a third out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lissom.functional.svd import leading, singular_values

SWEEPS = 20
SETTLED = 1e-8
"""Of the kept energy: the gain of a sweep below which it stops."""


class Multilinear(NamedTuple):
    """G (r1, .., rd) and U1 (n1, r1), .., Ud (nd, rd), float64."""

    core: Tensor
    factors: tuple[Tensor, ...]

    def whole(self) -> Tensor:
        """What they stand for, (n1, .., nd)."""
        return _moved(self.core, [factor.T for factor in self.factors])


def unfolding(tensor: Tensor, axis: int) -> Tensor:
    """(size of the axis, everything else)"""
    return tensor.movedim(axis, 0).flatten(1)


def spectra(tensor: Tensor) -> tuple[Tensor, ...]:
    """Singular values of all d unfoldings."""
    return tuple(singular_values(unfolding(tensor, axis)) for axis in range(tensor.ndim))


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
    return Multilinear(_moved(whole, factors), factors)


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
            factors[axis] = leading(unfolding(_moved(whole, others), axis), rank)
        core = _moved(whole, factors)
        now = float(core.square().sum())
        found = Multilinear(core, tuple(factors))
        if now - kept <= SETTLED * now:
            break
        kept = now
    return found


def _moved(tensor: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
    """Every axis multiplied by its matrix (n, r), where there is one."""
    for axis, factor in enumerate(factors):
        if factor is not None:
            tensor = (tensor.movedim(axis, -1) @ factor).movedim(-1, axis)
    return tensor
