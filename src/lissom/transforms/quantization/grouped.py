"""Weights kept as integers with a scale for every run of a row, and the operator that restores them."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from lissom.functional.weightgrid import Grid, low_bit_grid, restored_groups
from lissom.graph.lockstep import attribute
from lissom.transforms.quantization.actions import StoreGroups
from lissom.transforms.quantization.rewrite import explained, hold_


@torch.library.custom_op("lissom::dequantize_groups", mutates_args=())
def dequantize_groups(
    steps: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, group: int, bits: int
) -> torch.Tensor:
    """`functional.weightgrid.restored_groups`, one operator for exporters to recognise; `bits` is for them."""
    return restored_groups(steps, scale, zero, group)


@dequantize_groups.register_fake
def _(steps: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, group: int, bits: int) -> torch.Tensor:
    return torch.empty_like(steps, dtype=scale.dtype)


RESTORE = torch.ops.lissom.dequantize_groups.default


def nearest_grid(module: GraphModule, action: StoreGroups) -> Grid:
    """The grid of the weight as it is.

    Raises:
        FailureError: the weight holds NaN or infinite values.
    """
    weight = attribute(module, action.parameter).detach().flatten(1).float()
    with explained(action.parameter):
        return low_bit_grid(weight, action.bits, group=action.group, symmetric=action.symmetric)


def store_groups_(module: GraphModule, action: StoreGroups, grid: Grid) -> None:
    """Keep the weight of `action` as the steps of `grid`; every reader gets the restored weight."""
    weight = attribute(module, action.parameter).detach()
    dtype = torch.int8 if action.symmetric else torch.uint8
    state = {
        "steps": grid.steps(weight.flatten(1).float()).reshape(weight.shape).to(dtype),
        "scale": grid.scale,
    }
    if action.symmetric:
        hold_(module, action.parameter, state, RESTORE, (None, grid.group, action.bits), {})
    else:
        state["zero"] = grid.zero.to(dtype)
        hold_(module, action.parameter, state, RESTORE, (grid.group, action.bits), {})
