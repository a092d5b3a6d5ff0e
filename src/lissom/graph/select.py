"""The only place that matches layer names: shell patterns against module names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from lissom.errors import RecipeError, nearest


def select(names: Iterable[str], patterns: Sequence[str], field: str) -> frozenset[str]:
    """The names that match any pattern (`layer1.*`, `*.conv1`, `fc`).

    Raises:
        RecipeError: a pattern matches nothing; the message gives the nearest names.
    """
    names = list(dict.fromkeys(names))
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise RecipeError(f"{field}: the pattern {pattern!r} matches no layer. {nearest(pattern, names)}")
        chosen.update(matched)
    return frozenset(chosen)
