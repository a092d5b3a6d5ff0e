"""One budget shared by layers that each have a list of options with a cost and a loss.

    min  sum of losses     so that  sum of costs <= budget,      one option per layer

For losses that add up this is a knapsack with groups. On the lower convex hull of every layer's (cost, loss) points the
solution of its Lagrangian, min over options of loss + l cost, is a sorted sweep: from the cheapest options on, the
segment that buys the most loss for its cost goes first (Shoham and Gersho 1988, "Efficient Bit Allocation for an
Arbitrary Set of Quantizers"). Singular values give such points: at rank r the loss is the sum of the squares of those
left out, and each costs the same, so that a whole network's values are in one order, square over cost.

What is left of the budget is then given back: to the single change of one layer, hull or not, that gains most, again
and again. The loss is above the optimum by no more than the one segment at which the sweep ended
(`tests/functional/test_allocation.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


class Option(NamedTuple):
    """What a layer may become: its cost in the budget's unit, and what is lost by it."""

    cost: float
    loss: float


def allocate(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, int] | None:
    """Layer to the index of its option; None when the cheapest options are above the budget."""
    chosen = {name: _cheapest(own) for name, own in options.items()}
    spent = sum(options[name][index].cost for name, index in chosen.items())
    if spent > budget:
        return None
    segments: list[tuple[float, int, str, int, float]] = []
    for name, own in options.items():
        for order, (before, after) in enumerate(pairwise(hull(own))):
            extra = own[after].cost - own[before].cost
            slope = (own[before].loss - own[after].loss) / extra
            segments.append((-slope, order, name, after, extra))
    ended: set[str] = set()
    for _, _, name, after, extra in sorted(segments, key=lambda s: (s[0], s[1])):
        # A layer whose next segment is too long stays where it is: the ones behind it lie on top of that one.
        if name not in ended and spent + extra <= budget:
            chosen[name] = after
            spent += extra
        else:
            ended.add(name)
    return _given_back(options, chosen, budget - spent)


def hull(options: Sequence[Option]) -> list[int]:
    """Indices of the lower convex hull, from the cheapest to the least loss, costs rising and losses falling."""
    order = sorted(range(len(options)), key=lambda i: (options[i].cost, options[i].loss))
    found: list[int] = []
    for index in order:
        one = options[index]
        if found and one.loss >= options[found[-1]].loss:
            continue
        while len(found) > 1:
            first, second = options[found[-2]], options[found[-1]]
            if (first.loss - second.loss) * (one.cost - first.cost) > (first.loss - one.loss) * (
                second.cost - first.cost
            ):
                break
            found.pop()
        found.append(index)
    return found


def _cheapest(options: Sequence[Option]) -> int:
    return min(range(len(options)), key=lambda i: (options[i].cost, options[i].loss))


def _given_back(options: Mapping[str, Sequence[Option]], chosen: dict[str, int], slack: float) -> dict[str, int]:
    while True:
        best: tuple[float, str, int] | None = None
        for name, own in options.items():
            now = own[chosen[name]]
            for index, one in enumerate(own):
                gain = now.loss - one.loss
                if one.cost - now.cost <= slack and gain > 0 and (best is None or gain > best[0]):
                    best = (gain, name, index)
        if best is None:
            return chosen
        _, name, index = best
        slack -= options[name][index].cost - options[name][chosen[name]].cost
        chosen[name] = index
