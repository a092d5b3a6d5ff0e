"""Where a search starts for a goal: the planner's first guess, and what is foreseen of it before anything is made.

What arithmetic and the priors of `search.costs` say, and a latency model where layers were timed (`search.latency`):
the same that the first searcher goes by when nothing but the original was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from lissom.goal import Goal
from lissom.search.costs import fit_costs, fit_losses
from lissom.search.fitness import COSTS, Wish, drop, loosened, wishes
from lissom.search.history import Measurement, Trial, View, view
from lissom.search.latency import foretell
from lissom.search.searchers.knapsack import solve
from lissom.search.space import Point, Space
from lissom.settings import Setting

RECOVERABLE = 0.15
"""Share of the metric that a candidate may have lost, beyond the goal's drop, before it is trained."""


class Foreseen(Setting):
    """One wish and what a candidate that nobody has made yet will do about it."""

    wish: str
    hard: bool
    """Whether it decides."""
    bound: float
    """Most that the figure may be: a share of the original's cost, or a drop."""
    figure: float | None
    """The same of the candidate; None where nothing foretells it."""
    basis: Literal["counted", "prior", "none"]
    """Counted on a dry run; what such changes usually do; or nothing."""

    @property
    def kept(self) -> bool | None:
        return None if self.figure is None else self.figure <= self.bound


def aim_of(space: Space, goal: Goal, original: Measurement) -> Goal:
    """What candidates without training are judged by: where training follows, they may have lost more."""
    return goal if len(space.epochs) == 1 else loosened(goal, original, RECOVERABLE)


def start(
    space: Space, goal: Goal, original: Measurement, *, failed: Sequence[Point] = (), step: int = 1
) -> Point | None:
    """The first guess after the original, knowing that `failed` cannot be made; None where nothing is left.

    `step`: channels that the target computes together.
    """
    return solve(_known(space, aim_of(space, goal, original), original, failed, step))


def foresee_wishes(
    space: Space, goal: Goal, original: Measurement, point: Point, counted: Mapping[str, float], *, step: int = 1
) -> tuple[Foreseen, ...]:
    """For each wish of the goal; `counted` holds shares of costs that are known without measuring."""
    seen = _known(space, goal, original, (), step)
    return tuple(_foreseen(wish, seen, point, counted) for wish in wishes(goal, original))


def _known(space: Space, goal: Goal, original: Measurement, failed: Sequence[Point], step: int) -> View:
    """The original was measured, and what failed was tried."""
    first = Trial(number=0, point=Point(), recipe="", by="start", state="done", measurement=original)
    rest = [
        Trial(number=number, point=point, recipe="", by="start", state="failed")
        for number, point in enumerate(failed, start=1)
    ]
    return view(space, goal, original, [first, *rest], step=step)


def _foreseen(wish: Wish, seen: View, point: Point, counted: Mapping[str, float]) -> Foreseen:
    figure: float | None = None
    if wish.cost in counted:
        figure = counted[wish.cost]
    elif wish.cost == "latency":
        figure = float(foretell(seen, [point]).shares[0])
    elif wish.cost in COSTS:
        figure = float(fit_costs(wish.cost, [Point()], [1.0]).predict([point])[0])
    elif wish.cost == "drop" and not wish.of:
        figure = float(fit_losses([Point()], [drop(seen.original, seen.original)]).predict([point])[0])
    basis = "counted" if wish.cost in counted else "none" if figure is None else "prior"
    return Foreseen(wish=wish.text, hard=wish.hard, bound=wish.bound, figure=figure, basis=basis)
