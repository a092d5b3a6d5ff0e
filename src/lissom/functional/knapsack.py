"""One option for every item, costs within a budget, losses summing to the least: exact.

    min  sum of losses     so that  sum of costs <= budget,      one option per item

The multiple-choice knapsack (Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", chapter 11). Items are taken
one after the other; of the partial choices only those stay that no other beats in both cost and loss (Nemhauser and
Ullmann 1969, "Discrete dynamic programming and capital allocation"), and of those only such as can still lead to less
than the best choice known: what the items to come lose at least is read off the lower convex hull of their options, the
linear relaxation, for the budget that is left. The first choice known is that of `allocation.allocate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lissom.functional.allocation import Option, allocate, hull

Array = npt.NDArray[np.float64]
SLACK = 1e-9
"""Relative to the budget; sums of the same numbers in another order differ by less."""


class _Curve(NamedTuple):
    """The least loss of several items for a budget, relaxed: piecewise linear."""

    costs: Array
    losses: Array

    def at(self, budgets: Array, slack: float) -> Array:
        found = np.interp(budgets, self.costs, self.losses)
        return np.where(budgets < self.costs[0] - slack, np.inf, found)


class _Step(NamedTuple):
    """For every partial choice: the one it goes on from, and the option it adds."""

    parent: npt.NDArray[np.intp]
    option: npt.NDArray[np.intp]


def optimum(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, int] | None:
    """Item to the index of its option; None when the cheapest options are above the budget."""
    known = allocate(options, budget)
    if known is None or not options:
        return known
    names = sorted(options, key=lambda name: -max(o.loss for o in options[name]))
    best = sum(options[name][index].loss for name, index in known.items())
    curves = _curves([options[name] for name in names])
    costs, losses, steps = np.zeros(1), np.zeros(1), list[_Step]()
    for name, curve in zip(names, curves, strict=True):
        costs, losses, step = _extended(costs, losses, options[name], budget, curve, best)
        if not len(costs):
            return known
        steps.append(step)
    at = int(losses.argmin())
    if losses[at] >= best:
        return known
    found: dict[str, int] = {}
    for name, step in zip(reversed(names), reversed(steps), strict=True):
        found[name] = int(step.option[at])
        at = int(step.parent[at])
    return {name: found[name] for name in options}


def _extended(
    costs: Array, losses: Array, own: Sequence[Option], budget: float, rest: _Curve, best: float
) -> tuple[Array, Array, _Step]:
    width = len(own)
    all_costs = (costs[:, None] + np.array([o.cost for o in own])).ravel()
    all_losses = (losses[:, None] + np.array([o.loss for o in own])).ravel()
    bound = all_losses + rest.at(budget - all_costs, SLACK * abs(budget))
    kept = np.flatnonzero(bound <= best * (1 + SLACK))
    kept = kept[np.lexsort((all_losses[kept], all_costs[kept]))]
    lowest = np.minimum.accumulate(all_losses[kept])
    kept = kept[np.concatenate(([True], all_losses[kept][1:] < lowest[:-1]))] if len(kept) else kept
    return all_costs[kept], all_losses[kept], _Step(kept // width, kept % width)


def _curves(items: Sequence[Sequence[Option]]) -> list[_Curve]:
    """For every item, that of the items after it."""
    found: list[_Curve] = []
    cost, loss = 0.0, 0.0
    segments: list[tuple[float, float, float]] = []
    for own in reversed(items):
        ends = np.array([(s[1], s[2]) for s in sorted(segments)]).reshape(-1, 2)
        start = np.array([[cost, loss]])
        reached = np.concatenate((start, start + ends.cumsum(0)))
        found.append(_Curve(reached[:, 0], reached[:, 1]))
        corners = [own[index] for index in hull(own)]
        cost, loss = cost + corners[0].cost, loss + corners[0].loss
        segments += [
            ((b.loss - a.loss) / (b.cost - a.cost), b.cost - a.cost, b.loss - a.loss) for a, b in pairwise(corners)
        ]
    return found[::-1]
