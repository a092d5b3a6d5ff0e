"""The control: every point of the space in an order that chance decides. What does not beat it is no searcher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lissom.search.history import View
from lissom.search.space import DIMENSIONS, Point


@dataclass(frozen=True)
class Random:
    name: str = "random"

    def propose(self, view: View) -> Point | None:
        shape = tuple(len(view.space.values(name)) for name in DIMENSIONS)
        for index in np.random.default_rng(view.seed).permutation(view.space.size):
            point = view.space.at([int(level) for level in np.unravel_index(index, shape)])
            if view.new(point):
                return point
        return None
