"""What a layer may become: ranks with their cost and, where singular values tell, what is lost.

`loss` is the share of the squared norm that is left out, in the norm that the singular values are of (whitened: of the
outputs on the data). For `svd` and `kronecker` it is exact, for `tucker`, `full-tucker` and `tt` the bound of HOSVD and
of TT-SVD, for `spatial` exact in the plain case, for `cp` and `ring` a lower bound: none of their unfoldings can be
approximated better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, product
from operator import mul
from typing import Literal, NamedTuple

import torch

from lissom.functional.vbmf import rank_above_noise
from lissom.transforms.lowrank.chains import axes, feasible
from lissom.transforms.lowrank.evidence import Layer, Values
from lissom.transforms.lowrank.parts import Method, Shape, at_rank, largest, macs_of, parameters_of
from lissom.transforms.lowrank.shapes import CHAINS, Chain

Unit = Literal["macs", "parameters"]
COLLAPSED = 0.5
"""Share of the squared norm that variational Bayes may not throw away: a layer of rank 1 is seldom a layer."""


ROUNDED = 1e-12
"""Share of the squared norm that float32 weights have by rounding alone."""
UNKNOWN = 1e-3
"""What `cp` and `ring` are taken to lose, at rank 0, beyond their lower bound: more rank is worth something even where
that is 0."""
PAIRED = 64
"""Ranks of one side that are looked at where two are chosen together."""
BESIDE = 24
"""The same where ranks of the kernel are chosen with them."""


STEPS = 4
"""Ranks that a layer has at least to choose from, where the target's multiple would leave fewer."""


class Multiple(NamedTuple):
    """Of what ranks are multiples; `bends`: halved until a narrow layer has `STEPS` of them."""

    size: int
    bends: bool

    def of(self, most: int) -> int:
        """The multiple for a layer whose largest rank is `most`; 1 where it has none."""
        size = self.size
        while self.bends and size > 1 and STEPS * size > most:
            size //= 2
        return size if size <= most else 1


class Choice(NamedTuple):
    """One way to split a layer."""

    method: Method
    ranks: tuple[int, ...]
    macs: int
    parameters: int
    loss: float | None

    def cost(self, unit: Unit) -> int:
        return self.macs if unit == "macs" else self.parameters


def whole_cost(shape: Shape, unit: Unit) -> int:
    return shape.macs if unit == "macs" else shape.parameters


def choice(layer: Layer, method: Method, ranks: tuple[int, ...]) -> Choice:
    loss = None
    if method in layer.values:
        tails = [tail_shares(values) for values in layer.values[method]]
        loss = _loss(method, ranks, tails)
    return Choice(method, ranks, macs_of(layer.shape, method, ranks), parameters_of(layer.shape, method, ranks), loss)


def choices(layer: Layer, method: Method, unit: Unit, multiple: Multiple) -> list[Choice]:
    """Every choice of ranks that are multiples and cost less than the layer, without those that another one beats."""
    tails = [tail_shares(values) for values in layer.values.get(method, ())]
    most = largest(layer.shape, method)
    found: list[Choice] = []
    if method in CHAINS:
        every = chain_ranks(layer.shape, method, multiple, tails)
    elif method == "full-tucker":
        every = full_ranks(most, multiple)
    else:
        every = product(*(allowed(one, multiple, PAIRED if len(most) > 1 else one) for one in most))
    for ranks in every:
        macs, parameters = macs_of(layer.shape, method, ranks), parameters_of(layer.shape, method, ranks)
        one = Choice(method, ranks, macs, parameters, _loss(method, ranks, tails) if tails else None)
        if one.cost(unit) < whole_cost(layer.shape, unit):
            found.append(one)
    return found if not tails else best_of(found, unit)


def full_ranks(most: Sequence[int], multiple: Multiple) -> list[tuple[int, ...]]:
    """Ranks of both sides, each with all axes of the kernel at most at 1, 2, .. up to the longest, least ones first.

    Ranks of the kernel are not rounded: they are of groups of channels, which are multiples themselves.
    """
    outs, ins, *kernel = most
    levels = [tuple(min(level, size) for size in kernel) for level in range(1, max(kernel) + 1)]
    sides = product(allowed(outs, multiple, BESIDE), allowed(ins, multiple, BESIDE))
    return [(*pair, *level) for pair in sides for level in levels]


def least_ranks(shape: Shape, method: Method, multiple: Multiple) -> tuple[int, ...]:
    """The fewest ranks that are multiples."""
    if method in CHAINS:
        return at_rank(shape, method, multiple.of(max(largest(shape, method))))
    if method == "full-tucker":
        return full_ranks(largest(shape, method), multiple)[0]
    return tuple(multiple.of(most) for most in largest(shape, method))


def chain_ranks(
    shape: Shape, method: Chain, multiple: Multiple, tails: Sequence[Sequence[float]]
) -> list[tuple[int, ...]]:
    """Ranks of a chain: alike at all cuts, and for `tt` those at which every cut leaves out the same share at most."""
    most = largest(shape, method)
    found = [at_rank(shape, method, rank) for rank in allowed(max(most), multiple, PAIRED)]
    if method == "tt" and tails:
        shares = sorted({tail for own in tails for tail in own})
        for share in shares[:: max(1, len(shares) // PAIRED)]:
            least = [next(r for r, tail in enumerate(own) if tail <= share) for own in tails]
            sizes = [multiple.of(one) for one in most]
            rounded = [
                min(one, max(1, -(-rank // size)) * size) for one, rank, size in zip(most, least, sizes, strict=True)
            ]
            found.append(feasible(axes(shape, method), rounded))
    return list(dict.fromkeys(found))


def best_of(found: Iterable[Choice], unit: Unit) -> list[Choice]:
    """Sorted by cost, each with less loss than all cheaper ones."""
    kept: list[Choice] = []
    for one in sorted(found, key=lambda c: (c.cost(unit), c.loss or 0.0, c.method, c.ranks)):
        if not kept or (one.loss or 0.0) < (kept[-1].loss or 0.0):
            kept.append(one)
    return kept


def allowed(most: int, multiple: Multiple, count: int) -> range:
    """Multiples up to `most`, about `count` of them."""
    first = multiple.of(most)
    step = first * max(1, most // first // count)
    return range(step, most + 1, step)


def tail_shares(values: Values) -> list[float]:
    """At rank r = 0 .. k, the share of the squared norm that is left out."""
    squares = [v * v for v in values]
    total = sum(squares)
    if total <= 0.0:
        return [0.0] * (len(values) + 1)
    tails = [tail / total for tail in accumulate(reversed(squares), initial=0.0)]
    return [tail if tail > ROUNDED else 0.0 for tail in reversed(tails)]


def _loss(method: Method, ranks: Sequence[int], tails: Sequence[Sequence[float]]) -> float:
    if method == "ring":  # a cut through a ring goes through two bonds
        ranks = [ranks[0] * rank for rank in ranks[1:]]
    elif len(ranks) == 1:
        ranks = [ranks[0]] * len(tails)
    each = [tail[min(rank, len(tail) - 1)] for rank, tail in zip(ranks, tails, strict=True)]
    if method in ("cp", "ring"):
        return max(each) + UNKNOWN / (1 + sum(ranks) / len(ranks))
    return min(1.0, sum(each))


def ranks_above_noise(layer: Layer, method: Method) -> tuple[int, ...]:
    """By variational Bayes for every unfolding, and at least what keeps half of it; from plain singular values."""
    shape = layer.shape
    count = shape.outs * shape.ins * shape.window
    most = largest(shape, method)
    sides = {
        "tucker": (shape.outs, shape.ins),
        "full-tucker": most,
        "spatial": (shape.outs * shape.kernel[-1],) if shape.kernel else (),
    }
    if method in ("tt", "kronecker"):
        sides[method] = tuple(accumulate(axes(shape, method)[:-1], mul))
    found: list[int] = []
    for side, values in zip(sides.get(method, (shape.outs,)), layer.values[method], strict=True):
        above = rank_above_noise(torch.tensor(values, dtype=torch.float64), (side, count // side))
        half = next(r for r, tail in enumerate(tail_shares(values)) if tail <= COLLAPSED)
        found.append(max(above, half, 1))
    return feasible(axes(shape, method), found) if method == "tt" else tuple(found)
