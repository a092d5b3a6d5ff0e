"""An order of a layer's inputs in which an N:M pattern keeps more.

Which weights share a group of M is a matter of the order of the inputs, and that order is free where the layer before
can make its outputs in it. Wanted is the partition of the C columns of the scores S (rows, C), none negative, into
groups of M that maximizes

    sum over rows and groups of the N largest scores of the row in the group.

Few columns: exactly, over all partitions, by dynamic programming over sets of columns.

More columns: exchanges of two columns until none gains, from the given order, and again from the best order found with
some columns exchanged at random (iterated local search). For column a in its group, with t_a the N-th largest score of
the others in that group, row by row, column c in its place is worth

    value(a, c) = sum_r [ the N - 1 largest of the others + max(t_a, S_c) ]
                = sum_r   the N - 1 largest of the others + (sum t_a + sum S_c + |t_a - S_c|_1) / 2

so one matrix of L1 distances holds what every exchange gains:

    gain(a, b) = value(a, b) + value(b, a) - what the two groups keep now

Exchanges between disjoint pairs of groups add up, and are made together.

Very many columns are searched in parts of `WIDEST` columns, very many rows by `TALLEST` of them, drawn once; the order
is taken only if it keeps more on all rows.

Problem: Pool and Yu 2021, "Channel Permutations for N:M Sparsity" (NeurIPS), who search by exchanges and by solving
pairs of groups exhaustively; the local search over all exchanges at once is ours.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from lissom.functional.nm import Pattern, kept

EXACT = 1_000_000
"""Steps of the dynamic programme up to which the best partition is found."""
WIDEST, TALLEST = 512, 1024
"""Columns and rows that are searched at a time."""
TRIALS = 100
"""Random exchanges from the best order, each climbed from."""
SHAKEN = 32
"""Pairs of columns that a trial exchanges at random, each from two groups of their own: all groups of a small layer."""
EPS = 1e-5
"""Of what a group keeps: gains that are taken for rounding errors of their sums."""
WORK = 500_000_000
"""Terms of distances that the random exchanges may take, without what is climbed from them."""


@dataclass(frozen=True, eq=False)
class Order:
    """`columns[i]` is the column that comes to place i; what is kept before and after."""

    columns: Tensor
    before: float
    after: float


def best_order(scores: Tensor, pattern: Pattern, *, trials: int = TRIALS, seed: int = 0) -> Order:
    """The order of the columns of `scores` (rows, columns) in which `pattern` keeps the largest sum that was found.

    Never worse than the given order. M has to divide the columns; scores are not negative.
    """
    scores = scores.detach().float()
    count = scores.shape[1]
    before = kept(scores, pattern)
    draws = torch.Generator().manual_seed(seed)
    if _steps(count, pattern.m) <= EXACT:
        columns = _exact(scores, pattern)
    else:
        drawn = scores
        if len(scores) > TALLEST:
            drawn = scores[torch.randperm(len(scores), generator=draws)[:TALLEST]]
        parts = _parts(count, pattern.m)
        trials = min(trials, WORK // (len(drawn) * count * 2 * SHAKEN * pattern.m))
        columns = torch.cat([part[_searched(drawn[:, part], pattern, trials, draws)] for part in parts])
    after = kept(scores[:, columns], pattern)
    return Order(columns, before, after) if after > before else Order(torch.arange(count), before, before)


def _parts(count: int, m: int) -> list[Tensor]:
    """The columns in parts of at most `WIDEST`, whole groups each, taken from all over."""
    number = -(-count // (WIDEST // m * m))
    groups = torch.arange(count).reshape(-1, m)
    return [groups[first::number].flatten() for first in range(number)]


# ---- few columns ---------------------------------------------------------------------------------------------------


def _steps(count: int, m: int) -> int:
    """Pairs (set of columns, group in it that holds the first of them) of the dynamic programme."""
    if count > 20:
        return EXACT + 1
    return sum(math.comb(count, size) * math.comb(size - 1, m - 1) for size in range(m, count + 1, m))


def _exact(scores: Tensor, pattern: Pattern) -> Tensor:
    """Best partition of every set of columns: the group of its first column, and the best of the rest."""
    count, m = scores.shape[1], pattern.m
    groups = np.array(list(combinations(range(count), m)), dtype=np.int64)
    worth = np.zeros(2**count)
    best = np.zeros(2**count)
    choice = np.zeros(2**count, dtype=np.int64)
    bits = 1 << np.arange(count, dtype=np.int64)
    for first in range(0, len(groups), 256):
        some = groups[first : first + 256]
        sums = scores[:, torch.from_numpy(some)].topk(pattern.n, dim=2).values.double().sum((0, 2))
        worth[bits[some].sum(1)] = sums.numpy()
    for size in range(m, count + 1, m):
        sets = np.array(list(combinations(range(count), size)), dtype=np.int64)
        rest = np.array(list(combinations(range(1, size), m - 1)), dtype=np.int64).reshape(-1, m - 1)
        whole = bits[sets].sum(1)
        inside = bits[sets[:, :1]] + bits[sets[:, rest]].sum(2)
        values = worth[inside] + best[whole[:, None] - inside]
        at = values.argmax(1)
        best[whole] = values[np.arange(len(sets)), at]
        choice[whole] = inside[np.arange(len(sets)), at]
    left, order = 2**count - 1, list[int]()
    while left:
        group = int(choice[left])
        order += [column for column in range(count) if group >> column & 1]
        left -= group
    return torch.tensor(order)


# ---- many columns --------------------------------------------------------------------------------------------------


def _searched(scores: Tensor, pattern: Pattern, trials: int, draws: torch.Generator) -> Tensor:
    if scores.shape[1] == pattern.m:
        return torch.arange(pattern.m)
    best = _Partition(scores.T.contiguous(), pattern)
    best.climb_()
    shaken = min(SHAKEN, len(best.members) // 2)
    for _ in range(trials):
        other = best.copy()
        other.exchange_(*other.drawn(shaken, draws))
        other.climb_()
        if other.total >= best.total:
            best = other
    return best.members.flatten()


class _Partition:
    """Columns in groups of M, and what every exchange of two of them would make of a group."""

    def __init__(self, columns: Tensor, pattern: Pattern) -> None:
        """`columns` holds the scores (columns, rows)."""
        count = len(columns)
        self.pattern = pattern
        self.columns = columns
        self.sums = columns.sum(1)
        self.members = torch.arange(count).reshape(-1, pattern.m)
        self.group = torch.arange(count) // pattern.m
        """Of every column."""
        self.kept = torch.zeros(len(self.members))
        """By group."""
        self.values = torch.zeros(count, count)
        """value(a, c): what the group of column a keeps with column c in its place."""
        self._look_(torch.arange(len(self.members)))
        self.least = EPS * float(self.kept.mean())

    @property
    def total(self) -> float:
        return float(self.kept.double().sum())

    def copy(self) -> _Partition:
        made = copy.copy(self)
        made.members, made.group = self.members.clone(), self.group.clone()
        made.kept, made.values = self.kept.clone(), self.values.clone()
        return made

    def drawn(self, pairs: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Columns of random groups, each to be exchanged with one of the other list."""
        groups = torch.randperm(len(self.members), generator=draws)[: 2 * pairs]
        at = torch.randint(self.pattern.m, (len(groups),), generator=draws)
        some = self.members[groups, at]
        return some[: len(some) // 2], some[len(some) // 2 :]

    def exchange_(self, first: Tensor, second: Tensor) -> None:
        """Exchange columns pairwise; no group may occur twice."""
        groups, others = self.group[first], self.group[second]
        mine, theirs = self.members[groups], self.members[others]
        self.members[groups] = torch.where(mine == first[:, None], second[:, None], mine)
        self.members[others] = torch.where(theirs == second[:, None], first[:, None], theirs)
        self.group[first], self.group[second] = others, groups
        self._look_(torch.cat([groups, others]))

    def climb_(self) -> None:
        """Make exchanges that gain until there are none."""
        while (found := self._gaining()) is not None:
            self.exchange_(*found)

    def _gaining(self) -> tuple[Tensor, Tensor] | None:
        """Of every two groups that are each other's best partners, the best exchange."""
        now = self.kept[self.group]
        gains = self.values + self.values.T - (now[:, None] + now)
        gains.masked_fill_(self.group[:, None] == self.group, -torch.inf)
        gain, partner = gains.max(1)
        top, at = gain[self.members].max(1)
        if not float(top.max()) > self.least:
            return None
        first = self.members.gather(1, at[:, None])[:, 0]
        second = partner[first]
        groups = torch.arange(len(self.members))
        theirs = self.group[second]
        pairs = (theirs[theirs] == groups) & (groups < theirs) & (top > self.least)
        if not bool(pairs.any()):
            pairs = groups == top.argmax()
        return first[pairs], second[pairs]

    def _look_(self, groups: Tensor) -> None:
        """What these groups keep, and the values of exchanges that give up a column of theirs."""
        n = self.pattern.n
        members = self.members[groups]
        own = self.columns[members]
        ranked = own.sort(dim=1, descending=True).values
        kept, last, next_ = ranked[:, :n].sum(1), ranked[:, n - 1 : n], ranked[:, n : n + 1]
        stays = own >= last
        others = torch.where(stays, next_, last)
        rest = kept[:, None] - torch.where(stays, own, last)
        self.kept[groups] = kept.sum(1)
        flat = others.flatten(0, 1)
        distances = torch.cdist(flat, self.columns, p=1)
        larger = (flat.sum(1)[:, None] + self.sums + distances) / 2
        self.values[members.flatten()] = rest.sum(2).flatten()[:, None] + larger
