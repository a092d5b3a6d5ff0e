"""Which channels stay, given their scores.

A scope says which groups compete: "local" ranks each group alone, "global" all groups in one ranking, "isomorphic" the
groups of one class (same structure) in one. A ratio cuts that share of the channels of every ranking, lowest scores
first, under three rules:

- a group keeps at least its floor, and never fewer than one channel; its best channels are out of the race, so that
  other groups make up for them;
- the number kept is a multiple of `round_to`, or the whole group: rounded down, or up to the first multiple that the
  floor allows; never above the group's size. A group of which nothing is to be cut stays as it is;
- of all choices that cut at least the wished share after rounding, the one that cuts least; where none does, the
  one that cuts most.

A higher ratio keeps a subset of what a lower one keeps. Equal scores: the earlier group, then the lower index goes
first.

A budget finds the least ratio that meets it. In multiples that may be far below the budget, as a group that carries
much goes in large steps, or many groups step at once. What can be given back then is (`_given_back`). Ratios give
nothing back: they cut less than one multiple too much in each ranking, and stay nested.

Reference: Fang et al. 2024, "Isomorphic Pruning for Vision Models" (arXiv:2407.04616).
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from lissom.errors import OutOfReachError

T = TypeVar("T", int, float, str)

Scope = Literal["local", "global", "isomorphic"]
Kept = dict[str, tuple[int, ...]]
"""Group to the indices of the channels that stay, ascending."""

SLACK = 1e-9
"""Channels: what 0.7 * 10 may be off by in floating point."""


class Chosen(NamedTuple):
    """What `select_to_budget` found: `ratio` is the least share to cut that is within the budget."""

    kept: Kept
    ratio: float
    cost: float
    """Of what is kept, with what was given back."""


def select(
    scores: Mapping[str, Tensor],
    ratio: float | Mapping[str, float],
    *,
    scope: Scope = "local",
    classes: Mapping[str, str] | None = None,
    floors: int | Mapping[str, int] = 1,
    round_to: int | Mapping[str, int] = 1,
) -> Kept:
    """The channels that stay when the share `ratio` in [0, 1) of them is cut.

    `scores` maps a group to its (channels,) scores; `ratio` may differ by group in the local scope, `floors` and
    `round_to` in every scope. `classes` maps a group to its class, for the isomorphic scope.

    Raises:
        ValueError: a ratio outside [0, 1), scores that are empty or NaN, a group without class, floor or ratio.
    """
    ratios = ratio.values() if isinstance(ratio, Mapping) else [ratio]
    for value in ratios:
        if not 0.0 <= value < 1.0:
            raise ValueError(f"a ratio is the share to cut, in [0, 1), got {value}")
    if isinstance(ratio, Mapping) and scope != "local":
        raise ValueError(f"a ratio per group needs scope 'local', got {scope!r}: a shared ranking has one ratio")
    rankings = _rankings(scores, scope, classes, floors, round_to)
    counts: dict[str, int] = {}
    for one in rankings:
        counts |= one.at(_of(ratio, one.names[0], "ratio"))
    return kept_of(scores, counts)


def select_to_budget(
    scores: Mapping[str, Tensor],
    cost: Callable[[dict[str, int]], float],
    budget: float,
    *,
    scope: Scope = "global",
    classes: Mapping[str, str] | None = None,
    floors: int | Mapping[str, int] = 1,
    round_to: int | Mapping[str, int] = 1,
    what: str = "cost",
) -> Chosen:
    """The least that has to be cut, one ratio for all rankings, so that `cost(channels kept per group) <= budget`.

    `cost` must not grow when a channel goes. Every ratio at which anything changes is tried by bisection, so the
    answer is exact, with O(log channels) calls of `cost`. Where a `round_to` is above 1, multiples are then given back
    while the budget allows it: one call for each that is, and at most one for each group that has to stay as it is.
    `what` names the cost in the error.

    Raises:
        OutOfReachError: with every group at its floor the cost is still above the budget; says the least there is.
        ValueError: as `select`.
    """
    rankings = _rankings(scores, scope, classes, floors, round_to)
    ratios = sorted({0.0, *(cut / one.total for one in rankings for cut in range(1, one.total + 1))})
    costs: dict[float, float] = {}

    def counts_at(ratio: float) -> dict[str, int]:
        return {name: count for one in rankings for name, count in one.at(ratio).items()}

    def fits(ratio: float) -> bool:
        counts = counts_at(ratio)
        # A cost sees the groups in the caller's order, whatever the classes are.
        costs[ratio] = cost({name: counts[name] for name in scores})
        return costs[ratio] <= budget

    found = bisect.bisect_left(ratios, True, key=fits)
    if found == len(ratios):
        least = costs.get(ratios[-1])
        least = cost({name: counts_at(ratios[-1])[name] for name in scores}) if least is None else least
        uncut = cost({name: len(scores[name]) for name in scores})
        raise OutOfReachError(
            f"A {what} of {budget:g} is out of reach: with every group of channels at its smallest it is {least:g}, "
            f"uncut {uncut:g}. Wish for at least {least:g}, lower the floors, or let more layers be pruned.",
            uncut / least if least else 1.0,
        )
    counts, reached = counts_at(ratios[found]), costs[ratios[found]]
    if any(one.coarse for one in rankings):
        counts, reached = _given_back(rankings, {name: counts[name] for name in scores}, cost, budget, reached)
    return Chosen(kept_of(scores, counts), ratios[found], reached)


def _given_back(
    rankings: Sequence[_Ranking],
    counts: dict[str, int],
    cost: Callable[[dict[str, int]], float],
    budget: float,
    reached: float,
) -> tuple[dict[str, int], float]:
    """Counts from which no group can have its next multiple, and their cost.

    That multiple is tried first whose channels stand highest in their rankings, on average: as a share of the ranking,
    so that rankings compare. A group whose next multiple is too much is done with, since costs only grow from here.
    """
    owners = {name: one for one in rankings for name in one.names}
    order = {name: index for index, name in enumerate(counts)}
    queue = [(-owners[n].place(n, c), order[n], n) for n, c in counts.items() if c < owners[n].next(n, c)]
    heapq.heapify(queue)
    while queue:
        _, _, name = heapq.heappop(queue)
        tried = {**counts, name: owners[name].next(name, counts[name])}
        if (now := cost(tried)) > budget:
            continue
        counts, reached = tried, now
        if counts[name] < owners[name].next(name, counts[name]):
            heapq.heappush(queue, (-owners[name].place(name, counts[name]), order[name], name))
    return counts, reached


def kept_of(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Kept:
    """The `counts` best channels of every group, as ascending indices."""
    kept: Kept = {}
    for name, values in scores.items():
        order = values.detach().double().cpu().argsort(stable=True)
        kept[name] = tuple(sorted(order[len(order) - counts[name] :].tolist()))
    return kept


def rounded(wish: int, size: int, floor: int, multiple: int) -> int:
    """The number of channels kept of `size` when `wish` are wished for; see the rules above."""
    if wish >= size:
        return size
    down = wish // multiple * multiple
    return down if down >= floor else min(size, math.ceil(floor / multiple) * multiple)


class _Ranking:
    """The groups that compete, all their channels in order."""

    def __init__(
        self, scores: Mapping[str, Tensor], floors: int | Mapping[str, int], round_to: int | Mapping[str, int]
    ) -> None:
        self.names = list(scores)
        self._sizes = {name: len(values) for name, values in scores.items()}
        self.total = sum(self._sizes.values())
        self._floors = {n: min(max(1, _of(floors, n, "floor")), size) for n, size in self._sizes.items()}
        self._multiples = {name: max(1, _of(round_to, name, "round_to")) for name in scores}
        values: list[Tensor] = []
        owners: list[Tensor] = []
        for index, (name, given) in enumerate(scores.items()):
            racing = given.detach().double().cpu().sort(stable=True).values
            racing = racing[: self._sizes[name] - self._floors[name]]
            values.append(racing)
            owners.append(torch.full_like(racing, index, dtype=torch.long))
        order = torch.cat(values).argsort(stable=True)
        self._owners = torch.cat(owners)[order]
        """The group of each channel that may go, in the order in which they go."""
        self.coarse = any(multiple > 1 for multiple in self._multiples.values())

    def next(self, name: str, count: int) -> int:
        """The next larger number of channels that the group may keep; its size at the end."""
        multiple = self._multiples[name]
        return min(self._sizes[name], (count // multiple + 1) * multiple)

    def place(self, name: str, count: int) -> float:
        """Where the channels that come back with the next multiple stand in the ranking, on average, in [0, 1)."""
        mine = (self._owners == self.names.index(name)).nonzero().flatten()
        size = self._sizes[name]
        back = mine[size - self.next(name, count) : size - count]
        return float(back.double().mean()) / self.total

    def at(self, ratio: float) -> dict[str, int]:
        """Channels kept by group, when the share `ratio` of all of them is to be cut."""
        wish = math.ceil(ratio * self.total - SLACK)
        # Rounding cuts more than was asked for, so fewer may be enough; the number cut never falls with `first`.
        first = bisect.bisect_left(range(len(self._owners)), wish, key=self._cut)
        return self._counts(first)

    def _cut(self, first: int) -> int:
        return self.total - sum(self._counts(first).values())

    def _counts(self, first: int) -> dict[str, int]:
        gone = torch.bincount(self._owners[:first], minlength=len(self.names)).tolist()
        return {
            name: rounded(self._sizes[name] - cut, self._sizes[name], self._floors[name], self._multiples[name])
            for name, cut in zip(self.names, gone, strict=True)
        }


def _rankings(
    scores: Mapping[str, Tensor],
    scope: Scope,
    classes: Mapping[str, str] | None,
    floors: int | Mapping[str, int],
    round_to: int | Mapping[str, int],
) -> Sequence[_Ranking]:
    for name, values in scores.items():
        if values.ndim != 1 or len(values) == 0 or bool(values.isnan().any()):
            raise ValueError(
                f"the scores of {name!r} must have the shape (channels,) and hold no NaN, got {tuple(values.shape)}"
            )
    if scope == "isomorphic" and classes is None:
        raise ValueError("scope 'isomorphic' needs the class of every group")
    competing: dict[str, dict[str, Tensor]] = {}
    for name, values in scores.items():
        match scope:
            case "local":
                key = name
            case "global":
                key = ""
            case "isomorphic":
                key = _of(classes or {}, name, "class")
        competing.setdefault(key, {})[name] = values
    return [_Ranking(members, floors, round_to) for members in competing.values()]


def _of(given: T | Mapping[str, T], name: str, what: str) -> T:
    if not isinstance(given, Mapping):
        return given
    if name not in given:
        raise ValueError(f"the group {name!r} has no {what}; given for {', '.join(given) or 'none'}")
    return given[name]
