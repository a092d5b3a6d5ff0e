"""A goal as numbers that a search can go by: what misses it by how much, which candidate fits it best.

A wish is kept when its figure is at most its bound; ratios enter upside down. What is missed is relative to the bound,

    miss = max(0, figure / bound - 1),      of a drop   max(0, drop - allowed) / max(allowed, 0.01)

and the misses of all wishes add up. Without a bound on the drop, one point is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lissom.goal import Goal
from lissom.search.history import Measurement, Trial

DEFAULT_DROP = 0.01
"""Allowed where the goal names none: one point of accuracy."""
REFERENCE_DROP = 0.1
"""Drop from which on a candidate adds nothing to the hypervolume. The reference of a cost is the original's."""
SLACK = 1e-9

Figure = Callable[[Measurement, Measurement], float]
"""(original, candidate) -> a share of the original's that is to be small."""


def drop(original: Measurement, one: Measurement) -> float:
    return original.metric - one.metric


COSTS: dict[str, Figure] = {
    "latency": lambda original, one: 1.0 / one.latency_ratio,
    "size": lambda original, one: one.size_bytes / original.size_bytes,
    "MACs": lambda original, one: one.macs / max(original.macs, 1),
    "parameters": lambda original, one: one.parameters / max(original.parameters, 1),
    "memory": lambda original, one: (one.peak_memory_bytes or 0) / max(original.peak_memory_bytes or 0, 1),
}


class Wish(NamedTuple):
    """`cost` names a figure of `COSTS`, or is "drop"; `bound` is the most that it may be."""

    cost: str
    bound: float
    text: str

    def figure(self, original: Measurement, one: Measurement) -> float:
        return drop(original, one) if self.cost == "drop" else COSTS[self.cost](original, one)

    def miss(self, original: Measurement, one: Measurement) -> float:
        """0 where the wish is kept."""
        figure = self.figure(original, one)
        if self.cost == "drop":
            over = (figure - self.bound) / max(self.bound, DEFAULT_DROP)
        else:
            over = figure / self.bound - 1.0
        return over if over > SLACK else 0.0

    def reached(self, original: Measurement, one: Measurement) -> str:
        """The figure in the wish's own terms."""
        figure = self.figure(original, one)
        return f"{figure:.4f}" if self.cost == "drop" else f"{1.0 / figure:.2f}x" if figure > 0 else "0"


def wishes(goal: Goal, original: Measurement) -> tuple[Wish, ...]:
    """The drop first, always."""
    allowed = allowed_drop(goal, original)
    found = [Wish("drop", allowed, f"metric drop <= {allowed:g}")]
    ratios = (("latency", goal.latency_ratio), ("size", goal.size_ratio), ("MACs", goal.macs_ratio))
    for cost, ratio in (*ratios, ("parameters", goal.parameters_ratio)):
        if ratio is not None:
            found.append(Wish(cost, 1.0 / ratio, f"{cost} ratio >= {ratio:g}x"))
    if goal.latency_ms is not None:
        found.append(Wish("latency", goal.latency_ms / original.latency_ms, f"latency <= {goal.latency_ms:g} ms"))
    if goal.latency_p95_ms is not None:
        # Candidates are timed too shortly for a percentile of their own: it is taken to lie as far above the median.
        tail = original.latency_p95_ms or original.latency_ms
        found.append(Wish("latency", goal.latency_p95_ms / tail, f"95th percentile <= {goal.latency_p95_ms:g} ms"))
    if goal.throughput is not None:
        most = 1e3 * original.batch_size / goal.throughput
        found.append(Wish("latency", most / original.latency_ms, f"throughput >= {goal.throughput:g}/s"))
    if goal.size_bytes is not None:
        found.append(Wish("size", goal.size_bytes / original.size_bytes, f"size <= {goal.size_bytes} B"))
    if goal.peak_memory_bytes is not None and original.peak_memory_bytes:
        bound = goal.peak_memory_bytes / original.peak_memory_bytes
        found.append(Wish("memory", bound, f"peak memory <= {goal.peak_memory_bytes} B"))
    return tuple(found)


def allowed_drop(goal: Goal, original: Measurement) -> float:
    """The goal's, or one point."""
    wished = goal.allowed_drop(original.metric)
    return DEFAULT_DROP if wished is None else wished


def bounds(goal: Goal, original: Measurement) -> dict[str, float]:
    """The most that the drop and each cost may be; of several wishes for one cost the tighter."""
    found: dict[str, float] = {}
    for wish in wishes(goal, original):
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


def missed(goal: Goal, original: Measurement, one: Measurement, *, costs_only: bool = False) -> float:
    """Sum of the misses; 0 where everything is kept."""
    every = wishes(goal, original)
    return sum(wish.miss(original, one) for wish in every if not (costs_only and wish.cost == "drop"))


def score(goal: Goal, original: Measurement, one: Measurement) -> float:
    """One number, the smaller the better: misses first, then the mean share of the original's costs that is left."""
    names = objectives(goal, original)[1:]
    left = sum(COSTS[name](original, one) for name in names) / len(names)
    return missed(goal, original, one) + 0.1 * left


def best(trials: Iterable[Trial], goal: Goal, original: Measurement) -> Trial | None:
    """The one that misses least; of those that miss nothing the fastest, then the smallest, then the first."""
    done = [(t, t.measurement) for t in trials if t.measurement is not None]
    if not done:
        return None
    return min(done, key=lambda p: _rank(goal, original, *p))[0]


def _rank(goal: Goal, original: Measurement, trial: Trial, one: Measurement) -> tuple[float, ...]:
    return (missed(goal, original, one), 1.0 / one.latency_ratio, one.size_bytes, trial.number)
