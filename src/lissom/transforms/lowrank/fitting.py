"""The numbers for the parts of a split layer, from its weight and what it meets on the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lissom.functional import cp, spatial, svd, tucker
from lissom.transforms.lowrank import multilinear
from lissom.transforms.lowrank.chainfit import Losses, fit_cores
from lissom.transforms.lowrank.evidence import Seen, rows_of
from lissom.transforms.lowrank.parts import Method, Shape


class Fitted(NamedTuple):
    """Weights of the parts in order, what they stand for, (out, in, *kernel), and the bias; float64. `losses`: of
    chains that were fitted to data."""

    weights: tuple[Tensor, ...]
    whole: Tensor
    bias: Tensor | None
    losses: Losses | None = None


def fit(
    weight: Tensor,
    bias: Tensor | None,
    shape: Shape,
    method: Method,
    ranks: Sequence[int],
    seen: Seen,
    *,
    centred: bool,
) -> Fitted:
    """With nothing seen, the plain decomposition. `centred`: the mean is not the weight's task but the bias's."""
    inputs, outputs = seen.inputs_of(weight, centred=centred), seen.outputs_of(weight, shape, centred=centred)
    losses: Losses | None = None
    match method:
        case "svd":
            weights, whole = _svd(weight, shape, ranks[0], outputs)
        case "spatial":
            two = (
                spatial.spatial(weight, ranks[0]) if inputs is None else spatial.aware_spatial(weight, inputs, ranks[0])
            )
            weights, whole = tuple(two), two.weight()
        case "tucker":
            pair = ranks[0], ranks[1]
            three = tucker.tucker(weight, pair) if inputs is None else tucker.aware_tucker(weight, inputs, pair)
            weights, whole = (three.inputs.T, three.core, three.outputs), three.weight()
        case "full-tucker":
            weights, whole = multilinear.fit(weight, shape, ranks, inputs)
        case "cp":
            terms = cp.cp(weight, ranks[0]) if inputs is None else cp.aware_cp(weight, inputs, ranks[0])
            weights, whole = (terms.inputs.T, terms.kernel, terms.outputs), terms.weight()
        case "tt" | "ring" | "kronecker":
            plain = None if seen.inputs is None else seen.inputs.around(centred)
            weights, whole, losses = fit_cores(weight, shape, method, ranks, plain)
    moved = None if bias is None else bias.double()
    if moved is not None and centred:
        difference = (weight.double() - whole).flatten(1)
        if method == "svd" and seen.outputs is not None and outputs is not None:
            # The mean of W x without the mean of x: what is left out of the mean output.
            mean = seen.outputs.mean
            columns = svd.principal(weight.flatten(1), outputs)[0][:, : ranks[0]]
            moved = moved + mean - columns @ (columns.T @ mean)
        elif seen.inputs is not None:
            moved = moved + difference @ seen.inputs.mean
    return Fitted(weights, whole, moved, losses)


def _svd(weight: Tensor, shape: Shape, rank: int, outputs: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
    rows = rows_of(weight, shape)
    left, right = svd.factors(rows, rank) if outputs is None else svd.aware_factors(rows, outputs, rank)
    if shape.table:
        return (right.T, left), (left @ right).T
    return (right, left), (left @ right).reshape(weight.shape)
