"""First guesses: what the prior calls best, then what the fitted models call best.

    min  predicted drop(p)     so that  predicted cost_j(p) (1 + error_j(p)) <= bound_j   for every wish j

A knapsack with one option per dimension and several constraints. The spaces here have some thousand points, so that it
is solved by looking at all of them, exactly; `functional.knapsack` is for layers, which are too many for that. The
first guess comes before anything is known but the table of layers, for runs that have time for little else. Where the
prior's drop keeps it from the wishes for costs, a second one keeps these whatever it loses: the prior is that of models
that lose much, and one candidate tells. The models are fitted again after every candidate (`search.costs`,
`search.latency`), so a guess that was wrong corrects the next. A guess that misses because of its drop alone is
followed by milder ones, since the drop's model has learned. What could not be made is followed by each of its values
alone, which tells where not to guess again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lissom.search.fitness import DEFAULT_DROP, SOFT, bounds, missed
from lissom.search.history import View
from lissom.search.predicting import possible, predict
from lissom.search.space import Point

GUESSES = 10
"""Beyond these, steps in the right direction are worth more than more of the same."""


@dataclass(frozen=True)
class Knapsack:
    name: str = "knapsack"

    def propose(self, view: View) -> Point | None:
        if view.new(Point()):
            return Point()
        for point in doubted(view):
            return point
        begun = sum(trial.by == self.name for trial in view.trials) + len(view.pending)
        if begun > GUESSES:
            return None
        return solve(view, costs_only=begun == 2 and _short(view))


def doubted(view: View) -> Iterator[Point]:
    """Each value by itself of what could not be made: one of them may be why."""
    for trial in view.trials:
        if trial.measurement is None:
            alone = (Point().with_(**{name: getattr(trial.point, name)}) for name in view.space.open)
            yield from (point for point in alone if view.new(point))


def _short(view: View) -> bool:
    """Whether nothing measured keeps the costs that are wished for."""
    done = (trial.measurement for trial in view.trials if trial.measurement is not None)
    return all(missed(view.goal, view.original, one, costs_only=True) > 0.0 for one in done)


def solve(view: View, *, costs_only: bool = False) -> Point | None:
    """The new point that misses least by prediction; of those that miss nothing, the one that loses least.

    `costs_only`: a drop beyond its bound counts as no miss.
    """
    points = possible(view)
    if not points or all(trial.measurement is None for trial in view.trials):
        return points[0] if points else None
    told, missing, left = predict(view, points), np.zeros(len(points)), np.zeros(len(points))
    wanted, firm = bounds(view.goal, view.original), bounds(view.goal.part(soft=False), view.original)
    for name, shares in told.shares.items():
        left += shares
        if name in wanted:
            missing += (1.0 if name in firm else SOFT) * np.maximum(told.most[name] / wanted[name] - 1.0, 0.0)
    allowed = wanted["drop"]
    if not costs_only:
        missing += np.maximum(told.losses - allowed, 0.0) / max(allowed, DEFAULT_DROP)
    order = np.lexsort((told.losses, left, missing)) if len(wanted) == 1 else np.lexsort((left, told.losses, missing))
    return points[int(order[0])]
