"""Which class of the data is which output of the model: by name where both have names, else said plainly."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lissom.errors import DataError

SHOWN = 8
"""Classes that a sentence lists."""


def listed(names: Sequence[str]) -> str:
    """`0 cat, 1 dog, 2 horse, ...`"""
    some = ", ".join(f"{number} {name}" for number, name in enumerate(names[:SHOWN]))
    return f"{some}, ... ({len(names)} classes)" if len(names) > SHOWN else some


def numbered(names: Sequence[str]) -> bool:
    """Whether the names are nothing but `0`, `1`, `2`, ..."""
    return list(names) == [str(number) for number in range(len(names))]


def matched(data: Sequence[str], model: Sequence[str]) -> tuple[tuple[int, ...] | None, str]:
    """The model's output for each class of the data (None: the same numbers), and a sentence that says why.

    Names are compared without case, spaces and punctuation. `model` is empty where it names no classes.

    Raises:
        DataError: some names are the model's, and the order they stand in is not.
    """
    if numbered(data):
        return None, (
            f"Labels of the data are numbers, taken as those of the model: {listed(model)}."
            if model
            else f"Labels of the data are numbers, 0 to {len(data) - 1}; the model names no classes to compare with."
        )
    if not model:
        return None, (
            f"Classes of the data, in this order: {listed(data)}. The model names none to compare with: make sure "
            f"that it was trained in this order.{_as_text(data)}"
        )
    known = {_plain(name): number for number, name in enumerate(model)}
    found = [known.get(_plain(name)) for name in data]
    places = tuple(place for place in found if place is not None)
    distinct = len(known) == len(model) and len({_plain(name) for name in data}) == len(data)
    if distinct and len(places) == len(data):
        order = [model[place] for place in places]
        if places == tuple(range(len(model))):
            return None, f"Classes of the data are the model's by name: {listed(order)}."
        missing = (
            f" {len(model) - len(places)} of the model's classes have no data." if len(places) < len(model) else ""
        )
        pairs = ", ".join(f"{name} is {place}" for name, place in zip(data[:SHOWN], places[:SHOWN], strict=True))
        more = ", ..." if len(data) > SHOWN else ""
        return places, f"Classes of the data are numbered as the model names them: {pairs}{more}.{missing}"
    astray = next((n for n, place in enumerate(found) if place is not None and place != n), None)
    if distinct and astray is not None:
        strange = next(name for name, place in zip(data, found, strict=True) if place is None)
        raise DataError(
            f"Of the data's classes ({listed(data)}), {data[astray]!r} is the model's {found[astray]}, but {strange!r} "
            f"is none that it names ({listed(model)}). Rename the data's classes as the model names them."
        )
    return None, (
        f"Classes of the data, in this order: {listed(data)}. The model names them otherwise: {listed(model)}. "
        f"They are taken in this order: make sure that it is the model's.{_as_text(data)}"
    )


def _as_text(names: Sequence[str]) -> str:
    """A warning where names are numbers in another order than that of numbers."""
    if not all(name.isdecimal() for name in names) or sorted(names, key=int) == list(names):
        return ""
    return " The names are numbers in the order of text, in which 10 stands before 2: pad them with zeros if it is not."


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()) or name
