"""Steps along one dimension at a time, the best of each round kept.

    round:  for every dimension, the next value (for precisions: each that is not yet used) and nothing else changed
            of the proposals that lower the cost, keep the one with the least     drop gained / log cost saved
    end:    every wish for a cost is kept, or no proposal lowers it

Reference: Yang et al. 2018, "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications"
(arXiv:1804.03230), algorithm 1. Deviations: a dimension of the whole model stands in place of a layer, whose shares
`Prune`, `Factorize` and `Quantize` decide; steps are the values of the space and not one fixed amount of the resource,
which is why drops are weighed by what they save; the long training at the end is the planner's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lissom.search.fitness import COSTS, arrived, bounds, loss, objectives
from lissom.search.history import Measurement, View
from lissom.search.space import Point

LEAST_SAVED = 0.01
"""In logarithms: what saves less has not lowered the cost."""
NOISE = 0.002
"""Drop below which two candidates are alike; added so that dividing by savings means something at no drop at all."""


@dataclass(frozen=True)
class NetAdapt:
    name: str = "netadapt"

    def propose(self, view: View) -> Point | None:
        """Walks the rounds that are known already, up to the first proposal that is not."""
        current = Point()
        if view.new(current):
            return current
        while True:
            here = view.measured(current)
            if here is None or self._arrived(view, here):
                return None
            proposals = list(steps(view, current))
            for point in proposals:
                if view.new(point):
                    return point
            if any(point in view.pending for point in proposals):
                return None
            following = self._kept(view, here, proposals)
            if following is None:
                return None
            current = following

    def _arrived(self, view: View, here: Measurement) -> bool:
        saves = len(bounds(view.goal, view.original)) > 1
        return saves and arrived(view.goal, view.original, here, costs_only=True)

    def _kept(self, view: View, here: Measurement, proposals: list[Point]) -> Point | None:
        rated: list[tuple[float, int]] = []
        for index, point in enumerate(proposals):
            one = view.measured(point)
            if one is None:
                continue
            saved = cost_of(view, here) - cost_of(view, one)
            if saved > LEAST_SAVED:
                lost, before = (loss(view.goal, view.original, each) for each in (one, here))
                more = max(0.0, lost - max(0.0, before))
                rated.append(((more + NOISE) / saved, index))
        return proposals[min(rated)[1]] if rated else None


def steps(view: View, current: Point) -> Iterator[Point]:
    for name in view.space.open:
        values = view.space.values(name)
        later = values[values.index(getattr(current, name)) + 1 :]
        for value in later if name == "precision" else later[:1]:
            yield current.with_(**{name: value})


def cost_of(view: View, one: Measurement) -> float:
    """Logarithm of the costs that are still above their bounds; of all of them without bounds."""
    wanted = bounds(view.goal, view.original)
    names = objectives(view.goal, view.original)[1:]
    shares = {name: max(COSTS[name](view.original, one), 1e-9) for name in names}
    return sum(
        max(math.log(share), math.log(wanted[n])) if n in wanted else math.log(share) for n, share in shares.items()
    )
