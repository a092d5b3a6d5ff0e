"""What a plan of `Factorize` holds."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lissom.transforms.base import Action
from lissom.transforms.lowrank.evidence import Layer, Timing, reads_known
from lissom.transforms.lowrank.options import Choice
from lissom.transforms.lowrank.parts import Method


class Split(Action):
    """Replace a layer by the parts of `method` at these ranks (`tucker`: outputs, inputs; `full-tucker`: these
    and one for each long axis of the kernel; `tt`: one for each
    cut; `ring`: one for each core, the first joining the ends).

    Multiply-accumulates of one example and parameters, before and after; `loss` is the share of the squared norm that
    was expected to be left out, where singular values were looked at; `latency_ms` is the time of the layer by itself
    and of its parts on the target, where both were measured. `data_aware`: the factors are weighed by the data. Of
    chains that were, `output_loss` is the share of the outputs' energy on the data that is left out, and
    `output_loss_plain` what the plain cores would leave out; both are known once the plan has been carried out.
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
    data_aware: bool = False
    output_loss_plain: float | None = None
    output_loss: float | None = None


def split_of(layer: Layer, made: Choice, timed: Timing | None, *, aware: bool) -> Split:
    """The action that makes this choice."""
    return Split(
        layer=layer.name,
        method=made.method,
        ranks=made.ranks,
        macs=layer.shape.macs,
        macs_after=made.macs,
        parameters=layer.shape.parameters,
        parameters_after=made.parameters,
        loss=made.loss,
        latency_ms=None if timed is None else timed.whole_ms,
        latency_ms_after=None if timed is None else timed.parts_ms,
        data_aware=aware and (made.method == "svd" or reads_known(layer.shape)),
    )
