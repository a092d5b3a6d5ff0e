"""Settings: frozen, and readable about what is wrong."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import pytest

from lissom.errors import GoalError, RecipeError, UsageError
from lissom.settings import Setting


class Inner(Setting):
    ratio: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5
    kind: Literal["taylor", "l1"] = "l1"


class Outer(Setting):
    name: str
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Outer:
        if self.name == self.inner.kind:
            raise ValueError("name and kind must differ")
        return self


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"name": "a", "iner": {}}, "here: unknown field 'iner'. Did you mean 'inner' or 'name'?"),
        (
            {"name": "a", "inner": {"ration": 1}},
            "here: unknown field 'inner.ration'. Did you mean 'ratio'?",
        ),
        ({"name": "a", "zzzzzz": 1}, "here: unknown field 'zzzzzz'. Known: inner, many, name."),
        ({}, "here: the field 'name' is missing. Fields: name, inner, many."),
        (
            {"name": "a", "inner": {"ratio": 2}},
            "here: inner.ratio: Input should be less than or equal to 1, got 2.",
        ),
        (
            {"name": "a", "inner": {"kind": "l2"}},
            "here: inner.kind: Input should be 'taylor' or 'l1', got 'l2'.",
        ),
        (
            {"name": "a", "many": [{}, {"ratio": "x"}]},
            "here: many.1.ratio: Input should be a valid number, unable to parse string as a number, got 'x'.",
        ),
        ({"name": "l1"}, "here: name and kind must differ."),
        ([1], "here: Input should be a valid dictionary or instance of Outer."),
    ],
)
def test_errors_say_where_what_and_the_way_out(data, text):
    with pytest.raises(UsageError) as wrong:
        Outer.parse(data, "here")
    assert str(wrong.value) == text


@pytest.mark.parametrize("error", [UsageError, RecipeError, GoalError])
def test_the_asked_for_error_is_raised(error):
    with pytest.raises(error) as wrong:
        Outer.parse({}, "here", error)
    assert type(wrong.value) is error


def test_settings_are_frozen_values():
    one = Outer.parse({"name": "a", "many": [{}]}, "here")
    assert one == Outer(name="a", many=(Inner(),))
    assert hash(one) == hash(Outer(name="a", many=(Inner(),)))
    assert Outer.model_validate_json(one.model_dump_json()) == one
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        one.name = "b"


def test_defaults_are_validated_too():
    class Wrong(Setting):
        share: Annotated[float, pydantic.Field(le=1)] = 3.0

    with pytest.raises(UsageError, match=r"here: share: Input should be less than or equal to 1, got 3\.0\."):
        Wrong.parse({}, "here")
