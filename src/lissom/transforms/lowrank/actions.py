"""What a plan of `Factorize` holds."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lissom.transforms.base import Action
from lissom.transforms.lowrank.parts import Method


class Split(Action):
    """Replace a layer by the parts of `method` at these ranks (`tucker`: outputs, inputs; `tt`: one for each
    cut; `ring`: one for each core, the first joining the ends).

    Multiply-accumulates of one example and parameters, before and after; `loss` is the share of the squared norm that
    was expected to be left out, where singular values were looked at; `latency_ms` is the time of the layer by itself
    and of its parts on the target, where both were measured.
    """

    kind: Literal["split"] = "split"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    method: Method
    ranks: tuple[Annotated[int, pydantic.Field(ge=1)], ...]
    macs: int
    macs_after: int
    parameters: int
    parameters_after: int
    loss: float | None
    latency_ms: float | None = None
    latency_ms_after: float | None = None
