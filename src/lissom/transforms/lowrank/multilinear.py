"""Full Tucker of a convolution as plain layers: sizes, costs, and the numbers for the parts.

    W[o, i, k1, .., kd] = sum of  U[o, a] V[i, b] P1[k1, c1] ... Pd[kd, cd] G[a, b, c1, .., cd]

    1x1, in to b                                     V
    along the first axis, b to b c1                  P1, each channel by itself
    ..
    core, b c1 .. to a                               G
    1x1, a to out                                    U, with the bias

An axis at its full rank has no part of its own: what it would say is multiplied into the core, which keeps that axis of
the kernel. That holds for the axes behind the last one that is cut, so that at full ranks of the kernel these are the
three parts of `tucker`. Each axis has the stride, dilation and padding of the layer on it, wherever it is; axes act on
their own positions only, and nothing before the last part has a bias, so that the order changes nothing.

What cutting an axis of size k to rank c saves of the core is the share (k - c) / k; what it costs is the convolution
along it. Ranks of an axis of size 3 are few: at 2, a third of its energy is at stake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from lissom.functional.hooi import aware_hooi, aware_spectra, hooi, moved
from lissom.functional.hooi import spectra as plain_spectra
from lissom.transforms.lowrank.chains import long_axes, long_sizes
from lissom.transforms.lowrank.shapes import Shape, Stage


class Parts(NamedTuple):
    """Weights of the parts in order, and what they stand for, (out, in, *kernel); float64."""

    weights: tuple[Tensor, ...]
    whole: Tensor


def sizes(shape: Shape) -> tuple[int, ...]:
    """The ranks at which the layer is given back exactly: outputs, inputs, every long axis of the kernel."""
    return shape.outs, shape.ins, *long_sizes(shape)


def cut_axes(shape: Shape, ranks: Sequence[int]) -> int:
    """How many of the long axes have a part of their own."""
    pairs = zip(ranks[2:], long_sizes(shape), strict=True)
    return max((index for index, (rank, size) in enumerate(pairs, 1) if rank < size), default=0)


def stages(shape: Shape, ranks: Sequence[int]) -> tuple[Stage, ...]:
    one, groups, count = (1,) * len(shape.kernel), long_axes(shape), cut_axes(shape, ranks)
    found = [Stage(ranks[1], shape.ins, one, "inputs")]
    width = ranks[1]
    for own, rank in zip(groups[:count], ranks[2:], strict=False):
        found.append(Stage(width * rank, 1, _kernel(shape, own), own[-1] + 1, own, groups=width))
        width *= rank
    left = tuple(axis for own in groups[count:] for axis in own)
    core = Stage(ranks[0], width, _kernel(shape, left), "outputs", left)
    return (*found, core, Stage(shape.outs, ranks[0], one, "outputs"))


def spectra(weight: Tensor, shape: Shape, inputs: Tensor | None) -> tuple[Tensor, ...]:
    """Singular values of all unfoldings, whitened by the second moment of what the kernel sees if it is given."""
    tensor = weight.double().reshape(sizes(shape))
    return plain_spectra(tensor) if inputs is None else aware_spectra(tensor, inputs)


def fit(weight: Tensor, shape: Shape, ranks: Sequence[int], inputs: Tensor | None) -> Parts:
    tensor = weight.double().reshape(sizes(shape))
    found = hooi(tensor, ranks) if inputs is None else aware_hooi(tensor, inputs, ranks)
    count = cut_axes(shape, ranks)
    outputs, side, *kernel = found.factors
    core = moved(found.core, [None, None, *(None if k < count else factor.T for k, factor in enumerate(kernel))])
    weights = [side.T]
    width = ranks[1]
    for factor in kernel[:count]:
        # The same for every channel: (channel and column of the factor, positions).
        weights.append(factor.T.repeat(width, 1))
        width *= factor.shape[1]
    return Parts((*weights, core.reshape(ranks[0], width, -1), outputs), found.whole().reshape(weight.shape))


def _kernel(shape: Shape, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(size if axis in axes else 1 for axis, size in enumerate(shape.kernel))
