"""Layers of a model replaced by their parts, and proof that the parts compute what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lissom.errors import VerificationError, first_line
from lissom.graph.agreement import apart, outputs
from lissom.task import Batch
from lissom.transforms.lowrank.actions import Split
from lissom.transforms.lowrank.evidence import Seen, weight_of
from lissom.transforms.lowrank.fitting import fit
from lissom.transforms.lowrank.parts import build, fill_, has_bias, shape_of

ALLOWED_GAP = 1e-3
"""Of the largest output: float32 rounding through a deep network stays below, wrong parts far above."""
ROUNDINGS = 32
"""The same in units in the last place, for shorter types."""


@torch.no_grad()
def replace_(model: nn.Module, whole: nn.Module, action: Split, centred: bool, seen: Seen) -> Split:
    """Split a layer of `model`, and put what its parts stand for into the same layer of `whole`.

    The action with what was learned of its factors.
    """
    layer, twin = model.get_submodule(action.layer), whole.get_submodule(action.layer)
    bias = cast(Tensor | None, layer.bias) if has_bias(layer) else None
    fitted = fit(
        weight_of(model, action.layer),
        None if bias is None else bias.detach().cpu(),
        shape_of(layer, 1, 1, 1),
        action.method,
        action.ranks,
        seen,
        centred=centred,
    )
    cast(Tensor, twin.weight).copy_(fitted.whole)
    if fitted.bias is not None:
        cast(Tensor, twin.bias).copy_(fitted.bias)
    split = build(layer, action.method, action.ranks)
    fill_(split, fitted.weights, fitted.bias)
    model.set_submodule(action.layer, split)
    if fitted.losses is None:
        return action
    plain, own = fitted.losses
    return action.model_copy(update={"output_loss_plain": plain, "output_loss": own})


@torch.no_grad()
def verify(whole: nn.Module, split: nn.Module, example: Batch, actions: Sequence[Split]) -> None:
    """The parts compute what they stand for: as the whole layers with the product of the factors as their weight."""
    names = ", ".join(action.layer for action in actions) or "chains that were"
    way_out = "Factorize(exclude=[...]) leaves layers whole."
    wanted = _outputs(whole, example)
    try:
        got = _outputs(split, example)
    except (AttributeError, RuntimeError, TypeError) as wrong:
        raise VerificationError(
            f"The model does not run with {names} split: {first_line(wrong)}. It reads something of a layer "
            f"that its parts do not have. {way_out}"
        ) from wrong
    allowed = max([ALLOWED_GAP, *(ROUNDINGS * torch.finfo(t.dtype).eps for t in wanted)])
    gap = max([0.0, *(apart(a, b) for a, b in zip(wanted, got, strict=True))])
    if not gap <= allowed:
        raise VerificationError(
            f"With {names} split the outputs differ by {gap:.1e} of the largest from those of the layers that the "
            f"parts stand for (allowed {allowed:.0e}): the model uses a layer in a way the graph does not show. "
            f"{way_out}"
        )


def _outputs(model: nn.Module, example: Batch) -> list[Tensor]:
    """The real ones: an index of the largest may be another one by rounding."""
    return [tensor for tensor in outputs(model, example) if tensor.is_floating_point()]
