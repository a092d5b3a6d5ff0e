"""The numbers for the cores of a split layer: `functional.tensortrain`, `ring` and `kronecker`.

Where it is known what the kernel sees, the last 1x1 convolution of `tt` and `ring` is the least squares on it:

    U = W C B' (B C B')^-1          C: second moment (n, n) of what the kernel sees,  B (r, n): all parts before U

The others are of the weight alone, and so are all cores of linear layers and tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lissom.functional import kronecker, ring, tensortrain
from lissom.functional.whitening import damped_inputs
from lissom.transforms.lowrank.chains import axes, cores, digits
from lissom.transforms.lowrank.modules import linear_matrix, table_rows
from lissom.transforms.lowrank.shapes import Chain, Shape


class Cores(NamedTuple):
    """Weights of the parts in order, and what they stand for, (out, in, *kernel); float64."""

    weights: tuple[Tensor, ...]
    whole: Tensor


def spectra(weight: Tensor, shape: Shape, method: Chain) -> tuple[Tensor, ...]:
    """Singular values at each of the cuts between which `chains.axes` are."""
    if method == "kronecker":
        outs, ins = digits(shape, method)
        return (torch.linalg.svdvals(kronecker.rearranged(_rows(weight, shape, method), (outs[0], ins[0])).double()),)
    return tuple(tensortrain.spectra(_tensor(weight, shape, method)))


def fit_cores(weight: Tensor, shape: Shape, method: Chain, ranks: Sequence[int], inputs: Tensor | None) -> Cores:
    if shape.kernel and method != "kronecker":
        return _kernel(weight, shape, method, ranks, inputs)
    outs, ins = digits(shape, method)
    match method:
        case "tt":
            found = tensortrain.tensor_train(_rows(weight, shape, method).double(), outs, ins, ranks)
        case "ring":
            made = ring.ring(_tensor(weight, shape, method), ranks)
            found = [c.reshape(len(c), o, i, -1) for c, o, i in zip(made, outs, ins, strict=True)]
        case "kronecker":
            a, b = kronecker.kronecker(_rows(weight, shape, method), (outs[0], ins[0]), ranks[0])
            if shape.kernel:
                terms = ranks[0]
                inner = b.reshape(terms * outs[1], ins[1], *shape.kernel)
                outer = a.permute(1, 2, 0).reshape(outs[0], -1)
                return Cores((inner, outer), kronecker.restored(a, b).reshape(weight.shape))
            found = [a.permute(1, 2, 0).unsqueeze(0), b.unsqueeze(-1)]
    whole = tensortrain.restored(found)[: shape.outs]
    assert [tuple(core.shape) for core in found] == [tuple(size) for size in cores(shape, method, ranks)]
    last = len(found) - 1
    if shape.table:
        weights = [table_rows(core, last=k == last) for k, core in enumerate(found)]
    else:
        weights = [linear_matrix(core, first=k == 0, last=k == last) for k, core in enumerate(found)]
    return Cores(tuple(weights), whole)


def _kernel(weight: Tensor, shape: Shape, method: Chain, ranks: Sequence[int], inputs: Tensor | None) -> Cores:
    tensor = _tensor(weight, shape, method)
    found = ring.ring(tensor, ranks) if method == "ring" else tensortrain.train(tensor, ranks)
    basis = found[0]
    for core in found[1:-1]:
        basis = torch.tensordot(basis, core, 1).flatten(1, 2)
    basis = basis.permute(0, 2, 1).flatten(0, 1)  # (r_0 r, in kernel)
    last = found[-1].permute(1, 2, 0).flatten(1)  # (out, r_0 r)
    if inputs is not None:
        half = basis @ damped_inputs(inputs)
        gram = half @ basis.T
        # The pseudo-inverse: at full rank there are more parts than the kernel has numbers.
        last = (torch.linalg.pinv((gram + gram.T) / 2, hermitian=True) @ (half @ weight.double().flatten(1).T)).T
    first = found[0].permute(0, 2, 1).flatten(0, 1)  # (r_0 r_1, in)
    inner = [core.permute(2, 0, 1) for core in found[1:-1]]
    return Cores((first, *inner, last), (last @ basis).reshape(weight.shape))


def _rows(weight: Tensor, shape: Shape, method: Chain) -> Tensor:
    """(o1 o2 .., i1 i2 .. kernel); a table with rows of zeros at the end."""
    missing = prod(digits(shape, method)[0]) - shape.outs
    return F.pad(weight.flatten(1), (0, 0, 0, missing))


def _tensor(weight: Tensor, shape: Shape, method: Chain) -> Tensor:
    if shape.kernel:
        return tensortrain.kernel_axes(weight).reshape(axes(shape, method)).double()
    return tensortrain.digits(_rows(weight, shape, method), *digits(shape, method)).double()
