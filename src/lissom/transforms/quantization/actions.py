"""What plans of `Quantize` hold."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lissom.functional.affine import Affine, IntType
from lissom.functional.calibration import Method
from lissom.functional.ranges import Range
from lissom.functional.weightgrid import Bits
from lissom.target import Granularity
from lissom.transforms.base import Action

Fit = Literal["nearest", "gptq", "adaround", "learned"]
"""How the steps of a weight are chosen."""


def _none(value: object) -> bool:
    return value is None


def _empty(value: object) -> bool:
    return value == ""


def _no(value: object) -> bool:
    return value is False


class Equalize(Action):
    """Divide slice i of axis 0 of `outputs` by scales[i], multiply input channel i of `inputs` by it.

    `inputs` holds (parameter, groups of the convolution).
    """

    kind: Literal["equalize"] = "equalize"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    outputs: tuple[str, ...]
    inputs: tuple[tuple[str, int], ...]
    scales: tuple[float, ...]


class ShiftBias(Action):
    """Add `shift`, one number per output channel, to the bias `parameter`."""

    kind: Literal["shift-bias"] = "shift-bias"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    shift: tuple[float, ...]


class RoundActivation(Action):
    """Round `value` (a node of the traced graph) for its readers; `layer` computed it.

    `range` is what was seen, and `method` set the part of it that `numbers` represent. `learned` is what training made
    of them. With `clip`, what rounding would clip is clipped by an operator of its own before: the runtime then rounds
    here and not earlier.
    """

    kind: Literal["round-activation"] = "round-activation"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    value: str
    readers: tuple[tuple[str, int], ...]
    numbers: Affine
    range: Range
    method: Method = "minmax"
    learned: Annotated[Affine | None, pydantic.Field(exclude_if=_none)] = None
    clip: Annotated[bool, pydantic.Field(exclude_if=_no)] = False

    @property
    def grid(self) -> Affine:
        """What the value is rounded by."""
        return self.learned or self.numbers


class RoundDynamically(Action):
    """Give the input of `node` its own ranges at every call: one a tensor, a sample, a row, or a run of `group` values.

    `reason` is why, where fixed ranges were weighed against it.
    """

    kind: Literal["round-dynamically"] = "round-dynamically"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    node: str
    granularity: Granularity
    group: int
    dtype: IntType
    reason: Annotated[str, pydantic.Field(exclude_if=_empty)] = ""


class MultiplyActivations(Action):
    """Multiply activations at `node` in integers; their rounding has actions of its own.

    An attention is taken apart, and its weights, between 0 and 1, are rounded to `weights`.
    """

    kind: Literal["multiply-activations"] = "multiply-activations"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    node: str
    weights: Annotated[Affine | None, pydantic.Field(exclude_if=_none)] = None


class StoreWeight(Action):
    """Keep `parameter` as symmetric int8 with one scale per slice of `axis`; `nodes` multiply by it.

    Its steps are those of `bits` bits, of which each takes `stored` in the target's file; `fit` is how they are chosen:
    to the nearest, or from data when it is applied. With `pairs_fit`, sums of two products stay inside 16 bits. What is
    `restored` is turned back into floats first, and computed with as such.
    """

    kind: Literal["store-weight"] = "store-weight"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    axis: int
    nodes: tuple[str, ...]
    bits: Bits = 8
    fit: Fit = "nearest"
    stored: Bits = 8
    pairs_fit: bool = False
    restored: bool = False


class StoreGroups(Action):
    """Keep `parameter` as integers of `bits`, restored in float for the `nodes` that read it; activations stay float.

    A row is what belongs to one output (or one entry of a table). Every `group` weights of it share a scale, and a zero
    point unless `symmetric`; None for one scale a row. With `kept` the runtime's kernel reads the integers themselves.
    """

    kind: Literal["store-groups"] = "store-groups"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    nodes: tuple[str, ...]
    bits: Bits
    group: int | None
    symmetric: bool
    kept: bool
    fit: Fit = "nearest"


class HalveWeight(Action):
    """Keep `parameter` as float16; `nodes` read it, turned back into float32."""

    kind: Literal["halve-weight"] = "halve-weight"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    nodes: tuple[str, ...]


class RoundBias(Action):
    """Put the bias `parameter` on the accumulator's grid: `scale` of the input times the scales of `weight`."""

    kind: Literal["round-bias"] = "round-bias"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen
    parameter: str
    weight: str
    scale: float
