"""The numbers for the cores of a split layer: `functional.tensortrain`, `ring` and `kronecker`.

Where it is known what the layer reads, its cores are fitted to what it makes of that (`functional.chainals`), from the
plain ones on. In a convolution, `tt` and `ring` have the outputs behind all that reads, so that

    - the last 1x1 convolution is the least squares on the data:  U = W C B' (B C B')^-1,  B (r, n) all parts before U;
    - the others need only what U can say: W is projected on its columns, which takes most of the work away;
    - `tt` may start from the data-aware Tucker-2 of its first and last rank, whose core is then cut, if that is nearer.

The plain cores are never worse: each step takes from the error of the outputs, or leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.functional import chainals, kronecker, ring, tensortrain
from lissom.functional.svd import balanced, output_error
from lissom.functional.tucker import aware_tucker
from lissom.functional.whitening import damped_inputs
from lissom.transforms.lowrank.chains import axes, cores, digits
from lissom.transforms.lowrank.modules import linear_matrix, table_rows
from lissom.transforms.lowrank.shapes import Chain, Shape


class Losses(NamedTuple):
    """Shares of the outputs' energy on the data that are left out: by the plain cores, and by those fitted to it."""

    plain: float
    fitted: float


class Cores(NamedTuple):
    """Weights of the parts in order, what they stand for, (out, in, *kernel), float64; losses where data were seen."""

    weights: tuple[Tensor, ...]
    whole: Tensor
    losses: Losses | None = None


def spectra(weight: Tensor, shape: Shape, method: Chain) -> tuple[Tensor, ...]:
    """Singular values at each of the cuts between which `chains.axes` are."""
    if method == "kronecker":
        outs, ins = digits(shape, method)
        return (torch.linalg.svdvals(kronecker.rearranged(_rows(weight, shape, method), (outs[0], ins[0])).double()),)
    return tuple(tensortrain.spectra(_tensor(weight, shape, method)))


def fit_cores(weight: Tensor, shape: Shape, method: Chain, ranks: Sequence[int], inputs: Tensor | None) -> Cores:
    tensor = _tensor(weight, shape, method)
    moment = None if inputs is None else damped_inputs(inputs)
    plain = _plain(weight, shape, method, tensor, ranks)
    along = bool(shape.kernel) and method != "kronecker"
    if moment is None:
        found = plain
    elif along:
        found = _fit_kernel(weight, tensor, plain, moment, ranks if method == "tt" else None)
    else:
        found = _fit_digits(weight, shape, method, tensor, plain, moment)
    rebuilt = [_whole(one, weight.shape, shape, method) for one in (plain, found)]
    weights = _kernel_weights(found) if along else _digit_weights(found, shape, method, ranks)
    if moment is None:
        return Cores(weights, rebuilt[1])
    energy = output_error(weight.flatten(1), moment)
    plainly, fitted = (
        output_error((weight.double() - one).flatten(1), moment) / energy if energy > 0 else 0.0 for one in rebuilt
    )
    return Cores(weights, rebuilt[1], Losses(plainly, fitted))


def _plain(weight: Tensor, shape: Shape, method: Chain, tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    match method:
        case "tt":
            return tensortrain.train(tensor, ranks)
        case "ring":
            return ring.ring(tensor, ranks)
        case "kronecker":
            outs, ins = digits(shape, method)
            a, b = kronecker.kronecker(_rows(weight, shape, method), (outs[0], ins[0]), ranks[0])
            return [a.flatten(1).T.unsqueeze(0), b.flatten(1).unsqueeze(-1)]


def _fit_kernel(
    weight: Tensor, tensor: Tensor, plain: list[Tensor], moment: Tensor, ranks: Sequence[int] | None
) -> list[Tensor]:
    """Of a chain (in, k1, .., kd, out). `ranks`: of a train, which has another start than the plain one."""

    def weigh(difference: Tensor) -> Tensor:
        return (moment @ difference.reshape(len(moment), -1)).reshape(difference.shape)

    starts = [plain, _last_fitted(weight, plain, moment)]
    if ranks is not None:
        starts.append(_last_fitted(weight, _from_tucker(weight, tensor, moment, ranks), moment))
    errors = [chainals.error(tensor, one, weigh) for one in starts]
    least = min(errors)
    found = best = starts[errors.index(least)]
    for _ in range(chainals.SWEEPS):
        size, _, around = found[-1].shape
        columns, small = torch.linalg.qr(found[-1].permute(1, 0, 2).flatten(1))
        inner = small.reshape(-1, size, around).permute(1, 0, 2)
        *first, inner = chainals.swept(tensor @ columns, [*found[:-1], inner], weigh)
        found = _last_fitted(weight, [*first, torch.einsum("asb,os->aob", inner, columns)], moment)
        now = chainals.error(tensor, found, weigh)
        if now < least:
            best = found
        if least - now <= chainals.SETTLED * least:
            break
        least = now
    return best


def _from_tucker(weight: Tensor, tensor: Tensor, moment: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """The cores of a train whose ends are the data-aware Tucker-2's, and whose inner ones are cut from its core."""
    outputs, core, inputs = aware_tucker(weight, moment, (ranks[-1], ranks[0]))
    inner = tensortrain.kernel_axes(core).reshape(ranks[0], *tensor.shape[1:-1], ranks[-1])
    first, *others, last = tensortrain.train(inner, ranks)
    return [(inputs @ first[0]).unsqueeze(0), *others, (last[..., 0] @ outputs.T).unsqueeze(-1)]


def _last_fitted(weight: Tensor, cores: Sequence[Tensor], moment: Tensor) -> list[Tensor]:
    """With the last core the least squares for the others."""
    basis = _basis(cores)
    half = basis @ moment
    gram = half @ basis.T
    # The pseudo-inverse: at full rank there are more parts than the kernel has numbers.
    solved = torch.linalg.pinv((gram + gram.T) / 2, hermitian=True) @ (half @ weight.double().flatten(1).T)
    around, size = cores[0].shape[0], cores[-1].shape[0]
    return [*cores[:-1], solved.reshape(around, size, -1).permute(1, 2, 0)]


def _basis(cores: Sequence[Tensor]) -> Tensor:
    """All cores before the last, (r_0 r, in kernel)."""
    basis = cores[0]
    for core in cores[1:-1]:
        basis = torch.tensordot(basis, core, 1).flatten(1, 2)
    return basis.permute(0, 2, 1).flatten(0, 1)


def _fit_digits(
    weight: Tensor, shape: Shape, method: Chain, tensor: Tensor, plain: list[Tensor], moment: Tensor
) -> list[Tensor]:
    outs, ins = _sides(shape, method)

    def weigh(difference: Tensor) -> Tensor:
        return tensortrain.digits(tensortrain.matrix_of(difference, outs, ins) @ moment, outs, ins)

    found = chainals.fitted(tensor, plain, weigh)
    if method != "kronecker":
        return found
    a, b = balanced(found[0][0], found[1][..., 0])
    return [a.unsqueeze(0), b.unsqueeze(-1)]


def _whole(cores: Sequence[Tensor], size: torch.Size, shape: Shape, method: Chain) -> Tensor:
    tensor = ring.joined(cores)
    if shape.kernel and method != "kronecker":
        return tensortrain.kernel_of(tensor).reshape(size)
    return tensortrain.matrix_of(tensor, *_sides(shape, method))[: shape.outs].reshape(size)


def _kernel_weights(found: Sequence[Tensor]) -> tuple[Tensor, ...]:
    first = found[0].permute(0, 2, 1).flatten(0, 1)  # (r_0 r_1, in)
    inner = (core.permute(2, 0, 1) for core in found[1:-1])
    return (first, *inner, found[-1].permute(1, 2, 0).flatten(1))  # (out, r_0 r)


def _digit_weights(found: Sequence[Tensor], shape: Shape, method: Chain, ranks: Sequence[int]) -> tuple[Tensor, ...]:
    outs, ins = _sides(shape, method)
    own = [c.reshape(len(c), o, i, -1) for c, o, i in zip(found, outs, ins, strict=True)]
    if shape.kernel:
        a, b = own[0][0].permute(2, 0, 1), own[1][..., 0]
        inner = b.reshape(ranks[0] * outs[1], -1, *shape.kernel)
        return inner, a.permute(1, 2, 0).reshape(outs[0], -1)
    assert [tuple(core.shape) for core in own] == [tuple(size) for size in cores(shape, method, ranks)]
    last = len(own) - 1
    if shape.table:
        return tuple(table_rows(core, last=k == last) for k, core in enumerate(own))
    return tuple(linear_matrix(core, first=k == 0, last=k == last) for k, core in enumerate(own))


def _sides(shape: Shape, method: Chain) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(o1, .., od) and (i1, .., id kernel)"""
    outs, ins = digits(shape, method)
    return outs, (*ins[:-1], ins[-1] * shape.window)


def _rows(weight: Tensor, shape: Shape, method: Chain) -> Tensor:
    """(o1 o2 .., i1 i2 .. kernel); a table with rows of zeros at the end."""
    missing = prod(digits(shape, method)[0]) - shape.outs
    return F.pad(weight.flatten(1), (0, 0, 0, missing))


def _tensor(weight: Tensor, shape: Shape, method: Chain) -> Tensor:
    if shape.kernel and method != "kronecker":
        return tensortrain.kernel_axes(weight).reshape(axes(shape, method)).double()
    return tensortrain.digits(_rows(weight, shape, method), *_sides(shape, method)).double()
