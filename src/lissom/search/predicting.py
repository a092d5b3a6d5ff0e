"""What new candidates will lose and cost, from everything that a search knows: the models put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lissom.search.costs import fit_costs, fit_losses
from lissom.search.fitness import COSTS, loss, objectives
from lissom.search.history import View
from lissom.search.latency import careful, foretell
from lissom.search.space import Point

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Of each point, in their order."""

    losses: Array
    """In the terms of `fitness.loss`."""
    shares: dict[str, Array]
    """Of the original's, for every cost among the objectives."""
    most: dict[str, Array]
    """The same with the margin that a bound is kept by: one error of the model."""


def predict(view: View, points: Sequence[Point]) -> Predicted:
    done = [(t.point, t.measurement) for t in view.trials if t.measurement is not None]
    original, tried = view.original, [p for p, _ in done]
    losses = fit_losses(tried, [loss(view.goal, original, m) for _, m in done]).predict(points)
    shares, most = dict[str, Array](), dict[str, Array]()
    for name in objectives(view.goal, original)[1:]:
        if name == "latency":
            foretold = foretell(view, points)
            shares[name], most[name] = foretold.shares, careful(foretold)
        else:
            model = fit_costs(name, tried, [max(COSTS[name](original, m), 1e-6) for _, m in done])
            shares[name] = model.predict(points)
            most[name] = shares[name] * (1.0 + min(model.error, 0.5))
    return Predicted(losses, shares, most)


def possible(view: View) -> list[Point]:
    """New points none of whose values could not be made even by itself."""
    alone = {
        (name, value): view.known.get(Point().with_(**{name: value}))
        for name in view.space.open
        for value in view.space.values(name)
    }
    hopeless = {key for key, trial in alone.items() if trial is not None and trial.measurement is None}
    return [
        point
        for point in view.space.points()
        if view.new(point) and not any((name, getattr(point, name)) in hopeless for name in view.space.open)
    ]
