"""The candidate by which the front would grow most, if the models were right.

    max over p   HV(F and v(p), r) - HV(F, r)           v(p): predicted drop and shares of the costs of the goal

F is what was measured, r the drop that is allowed, or 0.1 where that is less, and the original's costs. Once no point
would add anything, chance proposes: the models may be wrong about what nobody tried.

Reference: Emmerich, Giannakoglou and Naujoks 2006, "Single- and Multiobjective Evolutionary Optimization Assisted by
Gaussian Random Field Metamodels", IEEE TEC 10(4), section IV (improvement of the hypervolume). Deviation: models of
few terms with a prior (`search.predicting`) in place of Gaussian fields, and their mean in place of an expectation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lissom.functional.front import grown
from lissom.search.fitness import allowed_drop, objectives, reference, values
from lissom.search.history import View
from lissom.search.predicting import possible, predict
from lissom.search.searchers.control import Random
from lissom.search.space import Point


@dataclass(frozen=True)
class Growing:
    name: str = "hypervolume"

    def propose(self, view: View) -> Point | None:
        points = possible(view)
        if not view.new(Point()) and points:
            gains = gained(view, points)
            best = int(np.argmax(gains))
            if gains[best] > 0.0:
                return points[best]
        return Point() if view.new(Point()) else Random().propose(view)


def gained(view: View, points: list[Point]) -> list[float]:
    """Hypervolume that each would add by itself, by prediction. What is being tried counts as if it had come out so."""
    names = objectives(view.goal, view.original)
    corner = (max(allowed_drop(view.goal, view.original), reference(names)[0]), *reference(names)[1:])
    waiting = sorted(view.pending, key=view.space.levels)
    told = predict(view, [*waiting, *points])
    rows = np.column_stack([told.losses, *(told.shares[name] for name in names[1:])])
    measured = [values(names, view.original, t.measurement) for t in view.trials if t.measurement is not None]
    known = [*measured, *map(tuple, rows[: len(waiting)].tolist())]
    return [grown(known, row, corner) for row in rows[len(waiting) :].tolist()]
