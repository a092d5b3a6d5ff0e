"""In which order to contract a chain of cores, for the number of rows at hand.

A chain of cores (r_{k-1}, ok, ik, rk) can be multiplied with n rows core by core, or neighbouring cores can be
multiplied with each other first. The first costs n times as much for n rows, the second the same for any number:

    row, core k       r_{k-1} ok ik rk  (o1 .. o_{k-1})  (i_{k+1} .. id)
    look-up, core k   r_{k-1} ik rk  (i1 .. i_{k-1})
    merging k, k+1    r_{k-1} ok ik rk  o_{k+1} i_{k+1} r_{k+1}

Few rows are therefore cheapest core by core, very many with fewer and larger cores, at the end with the whole matrix.
Every way to merge neighbours is tried, 2^(d-1) of them. With the ok rising and the ik falling, all products in the
first line are as small as any order of the cores can make them, and so is the number of parameters (rearrangement
inequality): `balanced` gives sizes in that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple


class Size(NamedTuple):
    """A core (r, o, i, r')."""

    left: int
    outs: int
    ins: int
    right: int

    @property
    def numbers(self) -> int:
        return self.left * self.outs * self.ins * self.right


def balanced(size: int, count: int) -> tuple[int, ...]:
    """`count` factors of `size`, rising, as near to each other as there are.

    Raises:
        ValueError: `size` or `count` is below 1.
    """
    if size < 1 or count < 1:
        raise ValueError(f"only numbers of at least 1 have factors, got {size} into {count}")
    if count == 1:
        return (size,)
    every = [
        tuple(sorted((first, *balanced(size // first, count - 1)))) for first in range(1, size + 1) if size % first == 0
    ]
    return min(every, key=lambda factors: (sum(factors), factors[-1]))


def covering(size: int, count: int) -> tuple[int, ...]:
    """`count` numbers, falling, nearly alike, whose product is at least `size`: rows of a table, the last unused."""
    found: list[int] = []
    for left in range(count, 0, -1):
        own = round(size ** (1 / left))
        own += own**left < size
        found.append(own)
        size = math.ceil(size / own)
    return tuple(sorted(found, reverse=True))


def product_cost(cores: Sequence[Size], *, around: int = 1) -> int:
    """Multiplications of one row with the chain; `around`: the rank that a ring carries along."""
    total = 0
    for k, core in enumerate(cores):
        before = math.prod(one.outs for one in cores[:k])
        behind = math.prod(one.ins for one in cores[k + 1 :])
        total += core.numbers * before * behind * (around if 0 < k < len(cores) - 1 else 1)
    return total


def lookup_cost(cores: Sequence[Size], *, around: int = 1) -> int:
    """Multiplications of one look-up: each core gives one of its `outs` slices."""
    total = 0
    for k, core in enumerate(cores[1:], 1):
        before = math.prod(one.ins for one in cores[:k])
        total += core.left * core.ins * core.right * before * (around if k < len(cores) - 1 else 1)
    return total


def merging_cost(cores: Sequence[Size]) -> int:
    """Multiplications to make one core of neighbours, from the left."""
    total, whole = 0, cores[0]
    for core in cores[1:]:
        total += whole.numbers * core.outs * core.ins * core.right
        whole = Size(whole.left, whole.outs * core.outs, whole.ins * core.ins, core.right)
    return total


def merged_size(cores: Sequence[Size]) -> Size:
    outs, ins = math.prod(core.outs for core in cores), math.prod(core.ins for core in cores)
    return Size(cores[0].left, outs, ins, cores[-1].right)


def runs(count: int) -> Iterator[tuple[range, ...]]:
    """Every way to cut a chain of `count` cores into runs of neighbours, the one of single cores first."""
    for cuts in range(count - 1, -1, -1):
        for places in combinations(range(1, count), cuts):
            ends = (0, *places, count)
            yield tuple(range(a, b) for a, b in pairwise(ends))


def cheapest(cores: Sequence[Size], rows: int, *, lookup: bool = False) -> tuple[range, ...]:
    """The runs of cores to merge before `rows` rows (or look-ups) are multiplied with what comes out.

    The ends of a ring are joined last: its runs are never all of it in one, and the rank around it is that of its
    first core.
    """
    around = cores[0].left
    price = lookup_cost if lookup else product_cost

    def cost(way: tuple[range, ...]) -> int:
        sizes = [merged_size([cores[k] for k in run]) for run in way]
        return sum(merging_cost([cores[k] for k in run]) for run in way) + rows * price(sizes, around=around)

    return min((way for way in runs(len(cores)) if around == 1 or len(way) > 1), key=cost)
