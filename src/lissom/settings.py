"""The base of every frozen setting, and readable errors for wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import pydantic

from lissom.errors import UsageError, nearest, shown


class Setting(pydantic.BaseModel):
    """Frozen data: validated when made, compared by value, JSON both ways, unknown fields refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, data: object, where: str, error: type[UsageError] = UsageError) -> Self:
        """Validate `data`; a wrong field raises `error` with its path, its value and the nearest name."""
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as wrong:
            raise error(explain(wrong, where, cls)) from wrong


def only_wish(setting: Setting, names: Sequence[str], way_out: str) -> str:
    """The one of these fields that is not None, for a validator.

    Raises:
        ValueError: none or several are given; the message ends with `way_out`.
    """
    named = [name for name in names if getattr(setting, name) is not None]
    if len(named) != 1:
        raise ValueError(
            f"{type(setting).__name__} needs exactly one of {', '.join(names)}, got {' and '.join(named) or 'none'}. "
            + way_out
        )
    return named[0]


def explain(wrong: pydantic.ValidationError, where: str, model: type[pydantic.BaseModel]) -> str:
    """One sentence for the first thing pydantic found wrong: where, what, which value, the way out."""
    first = wrong.errors(include_url=False)[0]
    fields = _fields(model, first["loc"][:-1])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown field {path!r}. {nearest(str(first['loc'][-1])[:80], fields)}"
    if first["type"] == "missing":
        return f"{where}: the field {path!r} is missing. Fields: {', '.join(fields)}."
    value = f", got {shown(first['input'])}" if path else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {path + ': ' if path else ''}{message}{value}."


def _fields(model: type[pydantic.BaseModel], path: tuple[int | str, ...]) -> dict[str, Any]:
    """The fields of the model that `path` leads to; of the outer one where the way is not that of a model."""
    fields: dict[str, Any] = dict(model.model_fields)
    for part in path:
        inner = getattr(fields.get(str(part)), "annotation", None)
        if not (isinstance(inner, type) and issubclass(inner, pydantic.BaseModel)):
            break
        fields = dict(inner.model_fields)
    return fields
