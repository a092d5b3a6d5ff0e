"""What a plan of `Factorize` holds."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lissom.transforms.base import Action
from lissom.transforms.lowrank.parts import Method


class Split(Action):
    """Replace a layer by the parts of `method` at these ranks (`tucker`: outputs, inputs).

    Multiply-accumulates of one example and parameters, before and after; `loss` is the share of the squared norm that
    was expected to be left out, where singular values were looked at.
    """

    kind: Literal["split"] = "split"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    method: Method
    ranks: tuple[Annotated[int, pydantic.Field(ge=1)], ...]
    macs: int
    macs_after: int
    parameters: int
    parameters_after: int
    loss: float | None
