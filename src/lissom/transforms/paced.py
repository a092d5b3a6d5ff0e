"""A latency to meet, by cutting: the least cut that is measured fast enough.

Latency falls in steps as channels go (vector units take many at a time), so no formula is trusted: the model is cut,
exported and timed beside the whole one at a few amounts, which a bisection over the ratio of MACs chooses.
"""

from __future__ import annotations

from collections.abc import Callable

from lissom.errors import GoalError

TRIES = 7
WIDEST = 64.0
"""Times fewer MACs that is tried at most."""


def least_cut(
    wish: float, faster_at: Callable[[float], float | None], tick: Callable[[float], None], out_of_reach: str
) -> float:
    """The smallest MACs ratio, up to the resolution of the bisection, at which `faster_at` gives at least `wish`.

    `faster_at(macs_ratio)` measures; None says that so much cannot be cut. `out_of_reach` is the message for the user,
    with `{fastest}` for the most that was measured.

    Raises:
        GoalError: the wish is not met however much is cut; says what was measured.
    """
    low, high = 1.0, wish
    best: float | None = None
    fastest = 1.0
    for tried in range(TRIES):
        ratio = high if best is None else (low * high) ** 0.5
        found = faster_at(ratio)
        tick((tried + 1) / TRIES)
        fastest = max(fastest, found or 0.0)
        if found is not None and found >= wish:
            best = high = ratio
        elif best is not None:
            low = ratio
        elif found is None or ratio >= WIDEST:
            # More than can be cut: halfway back to what could.
            if ratio / low < 1.05:
                break
            high = (low * ratio) ** 0.5
        else:
            low, high = ratio, min(WIDEST, ratio * max(1.25, wish / found))
    if best is None:
        raise GoalError(out_of_reach.format(fastest=f"{fastest:.2f}"))
    return best
