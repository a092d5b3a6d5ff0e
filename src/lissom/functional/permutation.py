"""An order of a layer's inputs in which an N:M pattern keeps more.

Which weights share a group of M is a matter of the order of the inputs, and that order is free where the layer before
can make its outputs in it. Wanted is the partition of the C columns of the scores S (rows, C), none negative, into
groups of M that maximizes

    sum over rows and groups of the N largest scores of the row in the group.

Few columns: exactly, over all partitions, by dynamic programming over sets of columns.

More columns: exchanges of two columns until none gains, from the given order, and again from the best order found with
a column or two of every group exchanged at random (iterated local search, several such starts side by side). For
column a in its group, with t_a the N-th largest score of the others in that group, row by row, column c in its place
is worth

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
TRIALS = 160
"""Random starts near the best order, each climbed from."""
BESIDE, SQUARES = 32, 2**20
"""Starts that are climbed from side by side: at most so many, and what their numbers of columns, squared, add up to."""
SHAKEN = 32
"""Pairs of groups of which a trial exchanges columns at random, one and two in turn: all groups of a small layer."""
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
    count = scores.shape[1]
    if count == pattern.m:
        return torch.arange(count)
    columns = scores.T.contiguous()
    first = _Partitions(columns, torch.arange(count).reshape(1, -1, pattern.m), pattern)
    first.climb_()
    best, most = first.members, float(first.totals()[0])
    side_by_side = max(1, min(BESIDE, SQUARES // count**2))
    for start in range(0, trials, side_by_side):
        others = _Partitions(columns, best.expand(min(side_by_side, trials - start), -1, -1), pattern, first)
        others.shake_(draws)
        others.climb_()
        totals = others.totals()
        at = int(totals.argmax())
        if float(totals[at]) >= most:
            best, most = others.members[at : at + 1], float(totals[at])
            first = others.one(at)
    return best.flatten()


class _Partitions:
    """Several partitions of the same columns into groups of M, searched side by side.

    Columns and groups of partition b are numbered from b C and b G on, so that an exchange is an exchange whichever
    partition it belongs to.
    """

    def __init__(self, columns: Tensor, members: Tensor, pattern: Pattern, known: _Partitions | None = None) -> None:
        """`columns` holds the scores (columns, rows), `members` the columns (partitions, groups, M). What is `known` of
        one partition holds for copies of it."""
        several, groups, m = members.shape
        self.pattern, self.columns, self.sums = pattern, columns, columns.sum(1)
        self.count, self.several = len(columns), several
        self.flat = (members + torch.arange(several)[:, None, None] * self.count).flatten(0, 1)
        """(all groups, M): numbers of their columns."""
        self.group = torch.empty(several * self.count, dtype=torch.int64)
        """Of every column."""
        self.group[self.flat.flatten()] = torch.arange(len(self.flat)).repeat_interleave(m)
        if known is None:
            self.kept = torch.zeros(several * groups)
            self.changes = torch.zeros(several * self.count, self.count)
            self._look_(torch.arange(len(self.flat)))
        else:
            self.kept = known.kept.repeat(several)
            self.changes = known.changes.repeat(several, 1)
        """`changes`: what the group of a column keeps more with another in its place; minus infinity for its own."""
        self.least = EPS * float(self.kept.mean())

    @property
    def members(self) -> Tensor:
        return (self.flat % self.count).reshape(self.several, -1, self.pattern.m)

    def totals(self) -> Tensor:
        return self.kept.double().reshape(self.several, -1).sum(1)

    def one(self, at: int) -> _Partitions:
        """What is known of one of them."""
        made = copy.copy(self)
        made.kept = self.kept.reshape(self.several, -1)[at].clone()
        made.changes = self.changes.reshape(self.several, self.count, -1)[at].clone()
        return made

    def shake_(self, draws: torch.Generator) -> None:
        """Exchange a column of every group, of at most `SHAKEN` pairs of them, with one of another; in every second
        partition once more."""
        each = len(self.flat) // self.several
        pairs = min(SHAKEN, each // 2)
        touched: list[Tensor] = []
        for step in (1, 2):
            some = torch.arange(0, self.several, step)
            drawn = torch.rand(len(some), each, generator=draws).argsort(1)[:, : 2 * pairs] + some[:, None] * each
            at = torch.randint(self.pattern.m, drawn.shape, generator=draws)
            columns = self.flat[drawn, at]
            self._swap_(columns[:, :pairs].flatten(), columns[:, pairs:].flatten())
            touched.append(drawn.flatten())
        self._look_(torch.cat(touched).unique())

    def climb_(self) -> None:
        """Make exchanges that gain until there are none."""
        while (found := self._gaining()) is not None:
            groups = torch.cat([self.group[column] for column in found])
            self._swap_(*found)
            self._look_(groups)

    def _swap_(self, first: Tensor, second: Tensor) -> None:
        """Exchange columns pairwise; no group may occur twice."""
        groups, others = self.group[first], self.group[second]
        mine, theirs = self.flat[groups], self.flat[others]
        self.flat[groups] = torch.where(mine == first[:, None], second[:, None], mine)
        self.flat[others] = torch.where(theirs == second[:, None], first[:, None], theirs)
        self.group[first], self.group[second] = others, groups

    def _gaining(self) -> tuple[Tensor, Tensor] | None:
        """Of every two groups that are each other's best partners, the best exchange."""
        changes = self.changes.reshape(self.several, self.count, self.count)
        gain, partner = (changes + changes.transpose(1, 2)).max(2)
        top, at = gain.flatten()[self.flat].max(1)
        if not float(top.max()) > self.least:
            return None
        first = self.flat.gather(1, at[:, None])[:, 0]
        second = (partner + torch.arange(self.several)[:, None] * self.count).flatten()[first]
        groups = torch.arange(len(self.flat))
        theirs = self.group[second]
        pairs = (theirs[theirs] == groups) & (groups < theirs) & (top > self.least)
        if not bool(pairs.any()):
            pairs = groups == top.argmax()
        return first[pairs], second[pairs]

    def _look_(self, groups: Tensor) -> None:
        """What these groups keep, and what they would with another column in the place of each of theirs."""
        n = self.pattern.n
        flat = self.flat[groups]
        members = flat % self.count
        own = self.columns[members]
        ranked = own.sort(dim=1, descending=True).values
        kept, last, next_ = ranked[:, :n].sum(1), ranked[:, n - 1 : n], ranked[:, n : n + 1]
        stays = own >= last
        others = torch.where(stays, next_, last)
        rest = kept[:, None] - torch.where(stays, own, last)
        self.kept[groups] = kept.sum(1)
        bars = others.flatten(0, 1)
        larger = torch.cdist(bars, self.columns, p=1).add_(self.sums).add_(bars.sum(1)[:, None]).div_(2)
        changes = larger.add_((rest.sum(2) - self.kept[groups][:, None]).flatten()[:, None])
        changes.scatter_(1, members.repeat_interleave(self.pattern.m, 0), -torch.inf)
        self.changes[flat.flatten()] = changes
