"""Text of others read as data: YAML and JSON of bounded size and depth, without aliases, without code.

Everything that is wrong with a text is a ValueError with one sentence; the caller knows the file and the way out.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

LARGEST = 1 << 28
"""Bytes of a file that is read as text."""
LARGEST_YAML = 1 << 20
"""Characters; what is larger is read if it is JSON, which takes no time."""
DEEPEST = 64
"""Levels of lists and mappings in each other."""
LONGEST_NUMBER = 400
"""Digits: Python's own limit is 4300, above which a number cannot even be shown in an error."""


def text_of(path: Path, *, largest: int = LARGEST) -> str:
    """The text of a file, read to `largest` bytes at most, so that a device or pipe without an end ends here.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8, or too large.
    """
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it has more than {largest} bytes")
    return data.decode("utf-8")


def json_of(text: str) -> Any:
    """
    Raises:
        ValueError: no JSON, nested too deeply, with a number of hundreds of digits or half a character.
    """
    try:
        data = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    _check(data)
    return data


def yaml_of(text: str) -> Any:
    """Plain YAML, of which JSON is a part.

    Raises:
        ValueError: no YAML, an alias, a name that stands twice in one mapping, or as `json_of`.
    """
    try:
        return json_of(text)
    except json.JSONDecodeError:
        pass
    if len(text) > LARGEST_YAML:
        raise ValueError(f"it has more than {LARGEST_YAML} characters, which is only read from JSON")
    try:
        data = yaml.load(text, _Plain)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    except yaml.YAMLError as wrong:
        raise ValueError(" ".join(str(wrong).split())) from wrong
    except (KeyError, AttributeError, IndexError, TypeError, OverflowError) as wrong:  # of a tag that does not fit
        raise ValueError(f"a value does not fit its tag: {wrong}") from wrong
    _check(data)
    return data


class _Plain(yaml.SafeLoader):
    """Without aliases: a few lines of them stand for gigabytes. Without names that stand twice: one would be lost."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, "aliases are not read: write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise ConstructorError(None, None, f"{key.value!r} stands twice in one mapping", key.start_mark)
                names.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        _check_length(node.value)
        return super().construct_yaml_int(node)


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)


def _integer(text: str) -> int:
    _check_length(text)
    return int(text)


def _check_length(number: str) -> None:
    if len(number) > LONGEST_NUMBER:
        raise ValueError(f"a number has {len(number)} digits, more than {LONGEST_NUMBER}")


def _check(data: object) -> None:
    """Depth, and characters that no file can hold."""
    level = [data]
    for _ in range(DEEPEST):
        for text in (value for value in level if isinstance(value, str)):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{text[:40]!a} holds half a character") from None
        level = [inner for value in level for inner in _held(value)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _held(value: object) -> list[Any]:
    if isinstance(value, dict):
        return [*cast(dict[Any, Any], value), *cast(dict[Any, Any], value).values()]
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple, set)) else []
