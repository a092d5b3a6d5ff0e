"""Why a goal was not reached: which wish binds, what is nearest, what more time or data would buy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lissom.goal import Goal
from lissom.search.fitness import Wish, best, wishes
from lissom.search.history import Measurement, Trial
from lissom.settings import Setting


class Explanation(Setting):
    """`binding` is the wish that stands in the way; empty where the goal is met."""

    met: bool
    binding: str
    sentences: tuple[str, ...]


def explain(
    trials: Sequence[Trial], goal: Goal, original: Measurement, *, untried: int, longest: int, trained: int
) -> Explanation:
    """Of everything that was tried. `untried` points are left, `trained` is the most epochs that any candidate had, of
    at most `longest`."""
    nearest = best(trials, goal, original)
    failed = sum(trial.state == "failed" for trial in trials)
    if nearest is None or nearest.measurement is None:
        return Explanation(
            met=False, binding="", sentences=(f"None of {len(trials)} candidates could be made and measured.",)
        )
    every = wishes(goal, original)
    wanted, soft = [w for w in every if w.hard], [w for w in every if not w.hard]
    missed = [w for w in wanted if w.miss(original, nearest.measurement) > 0.0]
    if not missed:
        kept = f"every wish{' that decides' if soft else ''}"
        text = f"Candidate {nearest.number} keeps {kept}: {_figures(wanted, original, nearest.measurement)}."
        return Explanation(met=True, binding="", sentences=(text, *_softly(soft, original, nearest, untried)))
    binding = _binding(trials, wanted, original) or missed[0]
    lines = [f"No candidate keeps every wish. {_blame(trials, wanted, binding, original)}"]
    lines.append(f"Nearest is candidate {nearest.number}: {_figures(wanted, original, nearest.measurement)}.")
    lines += _softly(soft, original, nearest, 0)
    if untried:
        lines.append(f"More time would try more: {untried} candidates of the space were not looked at.")
    lost = any(w.quality for w in missed)
    if trained < longest and lost:
        had = f"{trained} epochs" if trained else "no training"
        lines.append(f"More time would train longer: the most that a candidate had is {had}.")
    if not longest and lost:
        lines.append("Task(train=..., loss=...) would let candidates recover by training, which none could here.")
    noise = _noise(original)
    own = every[0]
    if own.hard and own.bound < noise:
        lines.append(
            f"{original.examples} validation examples tell drops of about {noise:.4f} apart, and {own.bound:g} "
            "is allowed; more of them would choose better."
        )
    if failed:
        lines.append(f"{failed} candidates could not be made; the table says why.")
    return Explanation(met=False, binding=binding.text, sentences=tuple(lines))


def _softly(soft: Sequence[Wish], original: Measurement, nearest: Trial, untried: int) -> tuple[str, ...]:
    """What was wished for without deciding, and whether it was reached."""
    one = nearest.measurement
    if not soft or one is None:
        return ()
    left = [w for w in soft if w.miss(original, one) > 0.0]
    more = f" More time would try {untried} candidates more." if left and untried else ""
    return (f"Soft wishes reached: {len(soft) - len(left)} of {len(soft)}: {_figures(soft, original, one)}.{more}",)


def _binding(trials: Sequence[Trial], wanted: Sequence[Wish], original: Measurement) -> Wish | None:
    """The wish without which the most candidates would do; None where no single one stands in the way."""
    counts = {wish: _kept(trials, [w for w in wanted if w is not wish], original) for wish in wanted}
    most = max(counts.values())
    return next(w for w, count in counts.items() if count == most) if most else None


def _kept(trials: Sequence[Trial], wanted: Sequence[Wish], original: Measurement) -> int:
    done = [t.measurement for t in trials if t.measurement is not None]
    return sum(all(w.miss(original, one) == 0.0 for w in wanted) for one in done)


def _blame(trials: Sequence[Trial], wanted: Sequence[Wish], binding: Wish, original: Measurement) -> str:
    others = [w for w in wanted if w is not binding]
    kept = _kept(trials, others, original)
    if not kept:
        return f"{binding.text} is the first that the nearest one misses; no wish stands in the way alone."
    done = [t.measurement for t in trials if t.measurement is not None]
    within = [one for one in done if all(w.miss(original, one) == 0.0 for w in others)]
    closest = min(within, key=lambda one: binding.figure(original, one))
    reached = binding.reached(original, closest)
    return f"What binds is {binding.text}: without it {kept} would do, and the best of those reaches {reached}."


def _figures(wanted: Sequence[Wish], original: Measurement, one: Measurement) -> str:
    return ", ".join(
        f"{w.text} ({w.reached(original, one)}{'' if w.miss(original, one) == 0.0 else ', missed'})" for w in wanted
    )


def _noise(original: Measurement) -> float:
    """Two standard errors of a share of that many examples; 0 where the metric is no share."""
    p = original.metric
    return 2.0 * math.sqrt(p * (1.0 - p) / max(original.examples, 1)) if 0.0 <= p <= 1.0 else 0.0
