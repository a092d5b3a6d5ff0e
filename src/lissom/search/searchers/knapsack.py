"""First guesses: what the prior calls best, each dimension by itself, then what the fitted models call best.

    min  predicted drop(p)     so that  predicted cost_j(p) (1 + error_j(p)) <= bound_j   for every wish j

A knapsack with one option per dimension and several constraints. The spaces here have some thousand points, so that it
is solved by looking at all of them, exactly; `functional.knapsack` is for layers, which are too many for that. The
first guess comes before anything is known but the table of layers, for runs that have time for little else. The models
are fitted again after every candidate (`search.costs`, `search.latency`), so a guess that was wrong corrects the next.
A guess that misses because of its drop alone is followed by milder ones, since the drop's model has learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lissom.search.costs import fit_costs, fit_losses
from lissom.search.fitness import COSTS, DEFAULT_DROP, SOFT, bounds, loss, objectives
from lissom.search.history import View
from lissom.search.latency import careful, foretell
from lissom.search.space import Point

GUESSES = 8
"""After the single dimensions: beyond these, steps in the right direction are worth more than more of the same."""


@dataclass(frozen=True)
class Knapsack:
    name: str = "knapsack"

    def propose(self, view: View) -> Point | None:
        single = alone(view)
        if len(view.trials) + len(view.pending) == 1 and not view.new(single[0]):
            return solve(view)
        for point in single:
            if view.new(point):
                return point
        if sum(trial.by == self.name for trial in view.trials) + len(view.pending) >= len(single) + GUESSES:
            return None
        return solve(view)


def alone(view: View) -> list[Point]:
    """Every precision, and of each other dimension a middle and its last value, everything else as it is."""
    found: list[Point] = [Point()]
    for name in view.space.open:
        values = view.space.values(name)
        chosen = values[1:] if name == "precision" else dict.fromkeys((values[len(values) // 2], values[-1]))
        found += [Point().with_(**{name: value}) for value in chosen]
    return found


def solve(view: View) -> Point | None:
    """The new point that misses least by prediction; of those that miss nothing, the one that loses least."""
    points = [p for p in view.space.points() if view.new(p) and not _hopeless(view, p)]
    done = [(t.point, t.measurement) for t in view.trials if t.measurement is not None]
    if not points or not done:
        return points[0] if points else None
    original, tried = view.original, [p for p, _ in done]
    losses = fit_losses(tried, [loss(view.goal, original, m) for _, m in done]).predict(points)
    missed, left = np.zeros(len(points)), np.zeros(len(points))
    wanted, firm = bounds(view.goal, original), bounds(view.goal.part(soft=False), original)
    for name in objectives(view.goal, original)[1:]:
        if name == "latency":
            foretold = foretell(view, points)
            shares, most = foretold.shares, careful(foretold)
        else:
            model = fit_costs(name, tried, [max(COSTS[name](original, m), 1e-6) for _, m in done])
            shares = model.predict(points)
            most = shares * (1.0 + min(model.error, 0.5))
        left += shares
        if name in wanted:
            missed += (1.0 if name in firm else SOFT) * np.maximum(most / wanted[name] - 1.0, 0.0)
    allowed = wanted["drop"]
    missed += np.maximum(losses - allowed, 0.0) / max(allowed, DEFAULT_DROP)
    order = np.lexsort((losses, left, missed)) if len(wanted) == 1 else np.lexsort((left, losses, missed))
    return points[int(order[0])]


def _hopeless(view: View, point: Point) -> bool:
    """One of its values could not be made even by itself."""
    alone = (view.known.get(Point().with_(**{name: getattr(point, name)})) for name in view.space.open)
    return any(trial is not None and trial.measurement is None for trial in alone)
