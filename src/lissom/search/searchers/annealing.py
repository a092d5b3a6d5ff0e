"""Simulated annealing: a neighbour is taken when it is better, and sometimes when it is not.

    accept with probability  exp(-(score' - score) / T_i),      T_i = T_0 a^i

Reference: Kirkpatrick, Gelatt and Vecchi 1983, "Optimization by Simulated Annealing", Science 220. The walk is done
again from its beginning at every call, over what is known: it depends on the seed and the history alone. A candidate
that failed, or is still being tried, counts as not taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lissom.search.fitness import score
from lissom.search.history import Measurement, View
from lissom.search.space import DIMENSIONS, Point

START, COOLING = 0.5, 0.93
FAR = 0.25
"""Chance of changing a second dimension in the same step."""
PATIENCE = 1000
"""Steps over known points after which everything around has been seen."""


@dataclass(frozen=True)
class Annealing:
    name: str = "anneal"

    def propose(self, view: View) -> Point | None:
        random = np.random.default_rng(view.seed)
        current = Point()
        if view.new(current):
            return current
        moves = 0
        for _ in range(PATIENCE + len(view.trials)):
            following = neighbour(view, current, random)
            chance = random.random()
            if view.new(following):
                return following
            if following == current:
                continue
            here, there = view.measured(current), view.measured(following)
            temperature = START * COOLING**moves
            moves += 1
            if there is None:
                continue
            worse = 0.0 if here is None else _score(view, there) - _score(view, here)
            if worse <= 0.0 or chance < math.exp(-worse / temperature):
                current = following
        return None


def _score(view: View, one: Measurement) -> float:
    return score(view.goal, view.original, one)


def neighbour(view: View, point: Point, random: np.random.Generator) -> Point:
    """One step up or down in a dimension or two; any other value of the precision."""
    levels = list(view.space.levels(point))
    names = view.space.open
    for _ in range(2 if random.random() < FAR else 1):
        if not names:
            break
        place = DIMENSIONS.index(names[int(random.integers(len(names)))])
        count = len(view.space.values(DIMENSIONS[place]))
        if DIMENSIONS[place] == "precision":
            levels[place] = int(random.integers(count))
        else:
            levels[place] = min(max(levels[place] + (1 if random.random() < 0.5 else -1), 0), count - 1)
    return view.space.at(levels)
