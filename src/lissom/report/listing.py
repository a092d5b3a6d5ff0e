"""A recipe as YAML text, for reading and for pasting into a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | bool | None"

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_RESERVED = frozenset(("true", "false", "null", "yes", "no", "on", "off", "y", "n"))


def recipe_text(recipe: Sequence[Json]) -> str:
    """YAML in block style, one line a field; strings that YAML would read as something else are quoted."""
    return "\n".join(_lines(recipe, 0))


def _lines(value: Json, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, Mapping) and value:
        return [line for key, item in value.items() for line in _entry(key, item, depth)]
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return [line for item in value for line in _item(item, depth)]
    return [pad + _scalar(value)]


def _entry(key: str, item: Json, depth: int) -> list[str]:
    start = "  " * depth + _scalar(key) + ":"
    if isinstance(item, (Mapping, list, tuple)) and item:
        return [start, *_lines(item, depth + 1)]
    return [f"{start} {_scalar(item)}"]


def _item(item: Json, depth: int) -> list[str]:
    first, *others = _lines(item, depth + 1)
    return ["  " * depth + "- " + first.lstrip(), *others]


def _scalar(value: Json) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
