"""How long the stages of a run are expected to take: what the progress bar weighs its shares by."""

from __future__ import annotations

from lissom.pipeline.datafree import Arranged, expected_seconds
from lissom.pipeline.searching import SEARCH_SECONDS, Wanted
from lissom.recipe import Recipe


def expected(
    recipe: Recipe | None, targets: int, making: Arranged | None, sought: Wanted | None
) -> list[tuple[str, float]]:
    """Name and seconds of each stage, on a small convolutional network."""
    candidates = targets * (1 if recipe else 2)
    return [
        ("synthesize", expected_seconds(making)),
        ("analyze", 1.0),
        ("search", (sought.seconds or SEARCH_SECONDS) if sought else 0.0),
        ("try candidates", 4.0 * candidates if candidates > 1 else 0.0),
        ("transform", sum(step.expected_seconds for step in recipe.steps) if recipe else 2.0),
        *(("export", 2.0), ("measure", 8.0), ("report", 0.5)),
    ]
