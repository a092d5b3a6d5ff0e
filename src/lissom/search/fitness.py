"""A goal as numbers that a search can go by: what misses it by how much, which candidate fits it best.

A wish is kept when its figure is at most its bound; ratios enter upside down. What is missed is relative to the bound,

    miss = max(0, figure / bound - 1),      of a drop   max(0, drop - allowed) / max(allowed, 0.01)

and the misses of all wishes add up; those of soft wishes do by themselves, and order what misses the others alike.
Without a bound on the drop, one point is allowed. Searchers that weigh quality against costs see one number: the drop
of the task's own metric, or what has gone of another bound on quality where that is more, in the same terms,

    loss = max over wishes w on quality of  drop_w / allowed_w * allowed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from lissom.errors import GoalError, nearest
from lissom.goal import Goal
from lissom.search.history import Measurement, Trial

DEFAULT_DROP = 0.01
"""Allowed where the goal names none: one point of accuracy."""
REFERENCE_DROP = 0.1
"""Drop from which on a candidate adds nothing to the hypervolume. The reference of a cost is the original's."""
SLACK = 1e-9
SOFT = 0.3
"""Weight of a soft wish's miss where one number has to say it all."""

Figure = Callable[[Measurement, Measurement], float]
"""(original, candidate) -> a share of the original's that is to be small."""


def drop(original: Measurement, one: Measurement, of: str = "") -> float:
    """Of the task's own metric, or of the further one of that name."""
    return original.metrics[of] - one.metrics[of] if of else original.metric - one.metric


COSTS: dict[str, Figure] = {
    "latency": lambda original, one: 1.0 / one.latency_ratio,
    "size": lambda original, one: one.size_bytes / original.size_bytes,
    "MACs": lambda original, one: one.macs / max(original.macs, 1),
    "parameters": lambda original, one: one.parameters / max(original.parameters, 1),
    "energy": lambda original, one: 1.0 / (one.energy_ratio or 1.0),
    "memory": lambda original, one: (one.peak_memory_bytes or 0) / max(original.peak_memory_bytes or 0, 1),
}


class Wish(NamedTuple):
    """`cost` names a figure of `COSTS`, or is "drop", of the task's metric or the one named, "class drop" (of the class
    that lost most) or "class floor" (drop of the worst class); `bound` is its most."""

    cost: str
    bound: float
    text: str
    of: str = ""
    hard: bool = True
    """Whether it decides if the goal is kept."""

    @property
    def quality(self) -> bool:
        """Whether it is one on quality, which training may bring back, and not on a cost."""
        return self.cost not in COSTS

    def figure(self, original: Measurement, one: Measurement) -> float:
        if self.cost == "class floor":
            return _worst(original) - _worst(one)
        if self.cost == "class drop":
            return max((share - one.classes[label] for label, share in original.classes.items()), default=0.0)
        return drop(original, one, self.of) if self.quality else COSTS[self.cost](original, one)

    def miss(self, original: Measurement, one: Measurement) -> float:
        """0 where the wish is kept."""
        figure = self.figure(original, one)
        over = (figure - self.bound) / (max(self.bound, DEFAULT_DROP) if self.quality else self.bound)
        return over if over > SLACK else 0.0

    def reached(self, original: Measurement, one: Measurement) -> str:
        """The figure in the wish's own terms."""
        figure = self.figure(original, one)
        if self.cost == "class floor":
            return f"{_worst(one):.4f} in class {min(one.classes, key=lambda label: one.classes[label])}"
        if self.cost == "class drop":
            most = max(original.classes, key=lambda label: original.classes[label] - one.classes[label])
            return f"{figure:.4f} in class {most}"
        return f"{figure:.4f}" if self.quality else f"{1.0 / figure:.2f}x" if figure > 0 else "0"


def _worst(one: Measurement) -> float:
    return min(one.classes.values(), default=0.0)


def wishes(goal: Goal, original: Measurement) -> tuple[Wish, ...]:
    """The drop first, always, then other bounds on quality, then costs.

    Raises:
        GoalError: the goal bounds a metric that was not measured.
    """
    firm, soft = goal.part(soft=False), goal.part(soft=True)
    return (
        *_of_quality(goal, original),
        *_of_costs(firm, original),
        *(wish._replace(hard=False) for wish in _of_costs(soft, original)),
    )


def _of_quality(goal: Goal, original: Measurement) -> Iterator[Wish]:
    allowed = allowed_drop(goal, original)
    yield Wish("drop", allowed, f"metric drop <= {allowed:g}", hard=not goal.is_soft("drop"))
    for name in goal.bounded:
        if name not in original.metrics:
            raise GoalError(f"The goal bounds the drop of {name!r}. {nearest(name, original.metrics)}")
        bound = goal.allowed_drop(original.metrics[name], name) or 0.0
        yield Wish("drop", bound, f"{name} drop <= {bound:g}", name, hard=not goal.is_soft(f"drop.{name}"))
    if goal.class_floor is not None:
        text, hard = f"worst class >= {goal.class_floor:g}", not goal.is_soft("class-floor")
        yield Wish("class floor", _worst(original) - goal.class_floor, text, hard=hard)
    if goal.class_drop is not None:
        text, hard = f"drop of every class <= {goal.class_drop:g}", not goal.is_soft("class-drop")
        yield Wish("class drop", goal.class_drop, text, hard=hard)


def _of_costs(goal: Goal, original: Measurement) -> Iterator[Wish]:
    ratios = (("latency", goal.latency_ratio), ("size", goal.size_ratio), ("MACs", goal.macs_ratio))
    for cost, ratio in (*ratios, ("parameters", goal.parameters_ratio)):
        if ratio is not None:
            yield Wish(cost, 1.0 / ratio, f"{cost} ratio >= {ratio:g}x")
    if goal.latency_ms is not None:
        yield Wish("latency", goal.latency_ms / original.latency_ms, f"latency <= {goal.latency_ms:g} ms")
    if goal.latency_p95_ms is not None:
        # Candidates are timed too shortly for a percentile of their own: it is taken to lie as far above the median.
        tail = original.latency_p95_ms or original.latency_ms
        yield Wish("latency", goal.latency_p95_ms / tail, f"95th percentile <= {goal.latency_p95_ms:g} ms")
    if goal.throughput is not None:
        most = 1e3 * original.batch_size / goal.throughput
        yield Wish("latency", most / original.latency_ms, f"throughput >= {goal.throughput:g}/s")
    if goal.size_bytes is not None:
        yield Wish("size", goal.size_bytes / original.size_bytes, f"size <= {goal.size_bytes} B")
    if goal.energy_ratio is not None:
        yield Wish("energy", 1.0 / goal.energy_ratio, f"energy ratio >= {goal.energy_ratio:g}x")
    if goal.energy_joules is not None and original.energy_joules:
        yield Wish("energy", goal.energy_joules / original.energy_joules, f"energy <= {1e3 * goal.energy_joules:g} mJ")
    if goal.peak_memory_bytes is not None and original.peak_memory_bytes:
        bound = goal.peak_memory_bytes / original.peak_memory_bytes
        yield Wish("memory", bound, f"peak memory <= {goal.peak_memory_bytes} B")


def allowed_drop(goal: Goal, original: Measurement) -> float:
    """The goal's, or one point."""
    wished = goal.allowed_drop(original.metric)
    return DEFAULT_DROP if wished is None else wished


def loss(goal: Goal, original: Measurement, one: Measurement) -> float:
    """The drop of the task's own metric, or of another bound on quality in its terms, whichever is more."""
    own, *others = (wish for wish in wishes(goal, original) if wish.quality)
    return max([own.figure(original, one), *(_felt(w, w.figure(original, one), own.bound) for w in others)])


def _felt(wish: Wish, figure: float, allowed: float) -> float:
    """A bound that the original breaks already (a floor) cannot be used up: what is beyond it counts as it is."""
    return allowed * figure / wish.bound if wish.bound > SLACK else allowed + figure - wish.bound


def loosened(goal: Goal, original: Measurement, share: float) -> Goal:
    """The goal with each bound on quality wider by a share of the original's metric."""
    by_name = {
        name: (goal.allowed_drop(original.metrics[name], name) or 0.0) + share * abs(original.metrics[name])
        for name in goal.bounded
    }
    return goal.model_copy(
        update={
            "metric_drop": allowed_drop(goal, original) + share * abs(original.metric),
            "metric_drop_share": None,
            "metric_drops": by_name or None,
            "metric_drop_shares": None,
            "class_drop": None if goal.class_drop is None else goal.class_drop + share,
            "class_floor": None if goal.class_floor is None else max(goal.class_floor - share, 0.0),
        }
    )


def bounds(goal: Goal, original: Measurement) -> dict[str, float]:
    """The most that the own metric's drop and each cost may be; of several wishes for one cost the tighter."""
    found: dict[str, float] = {}
    for wish in wishes(goal, original):
        if wish.quality and found:
            continue
        found[wish.cost] = min(wish.bound, found.get(wish.cost, wish.bound))
    return found


def objectives(goal: Goal, original: Measurement) -> tuple[str, ...]:
    """The drop and every cost that is wished for; without a wish, latency and size."""
    costs = tuple(cost for cost in bounds(goal, original) if cost != "drop")
    return ("drop", *(costs or ("latency", "size")))


def values(names: Iterable[str], original: Measurement, one: Measurement) -> tuple[float, ...]:
    """Objectives as numbers, the smaller the better."""
    return tuple(drop(original, one) if name == "drop" else COSTS[name](original, one) for name in names)


def reference(names: Sequence[str]) -> tuple[float, ...]:
    """Of the hypervolume: worse than this is worth nothing."""
    return tuple(REFERENCE_DROP if name == "drop" else 1.0 for name in names)


def missed(
    goal: Goal, original: Measurement, one: Measurement, *, costs_only: bool = False, soft: bool = False
) -> float:
    """Sum of the misses of the wishes that decide, or of the soft ones; 0 where everything is kept."""
    every = (wish for wish in wishes(goal, original) if wish.hard is not soft)
    return sum(wish.miss(original, one) for wish in every if not (costs_only and wish.quality))


def arrived(goal: Goal, original: Measurement, one: Measurement, *, costs_only: bool = False) -> bool:
    """Whether every wish is kept, soft ones too: nothing is left to search for."""
    return not any(missed(goal, original, one, costs_only=costs_only, soft=soft) for soft in (False, True))


def score(goal: Goal, original: Measurement, one: Measurement) -> float:
    """One number, the smaller the better: misses first, then the mean share of the original's costs that is left."""
    names = objectives(goal, original)[1:]
    left = sum(COSTS[name](original, one) for name in names) / len(names)
    return missed(goal, original, one) + SOFT * missed(goal, original, one, soft=True) + 0.1 * left


def best(trials: Iterable[Trial], goal: Goal, original: Measurement) -> Trial | None:
    """The one that misses least; of those that miss alike the one that misses the soft wishes least, then the fastest,
    then the smallest, then the first."""
    done = [(t, t.measurement) for t in trials if t.measurement is not None]
    if not done:
        return None
    return min(done, key=lambda p: _rank(goal, original, *p))[0]


def _rank(goal: Goal, original: Measurement, trial: Trial, one: Measurement) -> tuple[float, ...]:
    soft = missed(goal, original, one, soft=True)
    return (missed(goal, original, one), soft, 1.0 / one.latency_ratio, one.size_bytes, trial.number)
