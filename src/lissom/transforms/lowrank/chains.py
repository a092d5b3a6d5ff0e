"""Chains: Tensor-Train, tensor ring and Kronecker products of layers, as sizes and costs.

    convolution   tt         (in, k1, .., kd, out): 1x1, one convolution along each axis, 1x1
                  ring       the same, with the first rank carried along: the middle ones are computed once for each
                  kronecker  sum of A (x) B, the kernel with B: B on each group of inputs, then A across the groups
    linear, table            digits (o1 i1, .., od id): cores that are linear layers, or tables, themselves

Axes on which a kernel has one position have no core; what they stride or pad goes with the axis before. Kronecker is
the chain of two cores: its terms are the rank between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from lissom.functional.contraction import Size, balanced, covering
from lissom.functional.ring import ring_ranks
from lissom.transforms.lowrank.shapes import CHAINS as CHAINS
from lissom.transforms.lowrank.shapes import Chain, Shape, Stage

WIDE, LONG = 64, 512
"""Sides of a linear layer, and entries of a table, from which three cores are better than two."""


def digits(shape: Shape, method: Chain) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(o1, .., od) and (i1, .., id). The entries of a table are rounded up to a product."""
    if shape.kernel:  # kronecker: the kernel goes with the second, which is the smaller
        return balanced(shape.outs, 2)[::-1], balanced(shape.ins, 2)[::-1]
    wide = shape.outs >= LONG if shape.table else min(shape.outs, shape.ins) >= WIDE
    count = 3 if wide and method != "kronecker" else 2
    if shape.table:
        return covering(shape.outs, count), balanced(shape.ins, count)
    return balanced(shape.outs, count), balanced(shape.ins, count)[::-1]


def long_axes(shape: Shape) -> tuple[tuple[int, ...], ...]:
    """The axes of the kernel that each of its parts has: one with several positions, and those of one beside it."""
    found: list[list[int]] = [[]]
    for axis, size in enumerate(shape.kernel):
        if size > 1 and any(shape.kernel[other] > 1 for other in found[-1]):
            found.append([])
        found[-1].append(axis)
    return tuple(map(tuple, found))


def long_sizes(shape: Shape) -> tuple[int, ...]:
    """Of the axes of the kernel with several positions."""
    return tuple(size for size in shape.kernel if size > 1)


def axes(shape: Shape, method: Chain) -> tuple[int, ...]:
    """The sizes n1, .., nd between which the ranks are."""
    if shape.kernel and method != "kronecker":
        return shape.ins, *long_sizes(shape), shape.outs
    outs, ins = digits(shape, method)
    return tuple(o * i * (shape.window if k else 1) for k, (o, i) in enumerate(zip(outs, ins, strict=True)))


def largest(shape: Shape, method: Chain) -> tuple[int, ...]:
    """The ranks at which the layer is given back exactly; of a ring, the one for all."""
    sizes = axes(shape, method)
    if method == "ring":
        return (max(ring_ranks(sizes, prod(sizes))),)
    return tuple(min(prod(sizes[:k]), prod(sizes[k:])) for k in range(1, len(sizes)))


def at_rank(shape: Shape, method: Chain, rank: int) -> tuple[int, ...]:
    """The ranks of the action, none above `rank`."""
    sizes = axes(shape, method)
    if method == "ring":
        return ring_ranks(sizes, rank)
    return feasible(sizes, [min(rank, most) for most in largest(shape, method)])


def feasible(sizes: Sequence[int], ranks: Sequence[int]) -> tuple[int, ...]:
    """The same ranks, none above what its neighbours leave it."""
    found = list(ranks)
    for k in range(len(found)):
        found[k] = min(found[k], (found[k - 1] if k else 1) * sizes[k])
    for k in reversed(range(len(found))):
        found[k] = min(found[k], (found[k + 1] if k + 1 < len(found) else 1) * sizes[k + 1])
    return tuple(found)


def applies(shape: Shape, method: Chain) -> bool:
    if shape.table and shape.padded:
        return False
    return method == "kronecker" or shape.window > 1 or not shape.kernel


def inapplicable(shape: Shape, method: Chain) -> str:
    """Why not."""
    if shape.padded:
        return f"it has a padding row, which {method} cores cannot leave alone; svd can"
    return f"{method} has nothing to split in a {' x '.join(map(str, shape.kernel))} kernel; svd and kronecker have"


def cores(shape: Shape, method: Chain, ranks: Sequence[int]) -> tuple[Size, ...]:
    """Of a linear layer or a table. The first rank of a ring is that of both ends."""
    outs, ins = digits(shape, method)
    around, inner = (ranks[0], ranks[1:]) if method == "ring" else (1, ranks)
    bonds = (around, *inner, around)
    return tuple(Size(bonds[k], o, i, bonds[k + 1]) for k, (o, i) in enumerate(zip(outs, ins, strict=True)))


def stages(shape: Shape, method: Chain, ranks: Sequence[int]) -> tuple[Stage, ...]:
    if shape.table:
        return _lookups(cores(shape, method, ranks))
    if not shape.kernel:
        return _products(cores(shape, method, ranks))
    one = (1,) * len(shape.kernel)
    if method == "kronecker":
        (first_out, second_out), (first_in, second_in) = digits(shape, method)
        every = tuple(range(len(shape.kernel)))
        return (
            Stage(ranks[0] * second_out, second_in, shape.kernel, "outputs", every, times=first_in),
            Stage(first_out, ranks[0] * first_in, one, "outputs", times=second_out),
        )
    around, inner = (ranks[0], ranks[1:]) if method == "ring" else (1, ranks)
    found = [Stage(around * inner[0], shape.ins, one, "inputs")]
    for own, before, after in zip(long_axes(shape), inner, inner[1:], strict=False):
        kernel = tuple(size if axis in own else 1 for axis, size in enumerate(shape.kernel))
        found.append(Stage(after, before, kernel, own[-1] + 1, own, times=around))
    return (*found, Stage(shape.outs, around * inner[-1], one, "outputs"))


def _products(sizes: Sequence[Size]) -> tuple[Stage, ...]:
    around, last = sizes[0].left, len(sizes) - 1
    found: list[Stage] = []
    for k, size in enumerate(sizes):
        before = prod(one.outs for one in sizes[:k])
        behind = prod(one.ins for one in sizes[k + 1 :])
        outs = (around if k == 0 else 1) * size.outs * (1 if k == last else size.right)
        ins = (1 if k == 0 else size.left) * size.ins * (around if k == last else 1)
        times = before * behind * (around if 0 < k < last else 1)
        found.append(Stage(outs, ins, (), "outputs", times=times))
    return tuple(found)


def _lookups(sizes: Sequence[Size]) -> tuple[Stage, ...]:
    around, last = sizes[0].left, len(sizes) - 1
    found: list[Stage] = []
    for k, size in enumerate(sizes):
        width = size.left * size.ins * size.right
        before = prod(one.ins for one in sizes[:k]) * (around if 0 < k < last else 1)
        found.append(Stage(size.outs, width, (), "outputs", work=width * before if k else 0))
    return tuple(found)
