"""Sparsity that survives training: what was set to zero stays zero.

A matrix or kernel in which some weights, but not all, are exactly zero was pruned: training does not produce exact
zeros, and a layer that begins at zero is zero as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def masks_of(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Parameters with the mask of what may change in them, for those that are partly zero."""
    found: list[tuple[nn.Parameter, Tensor]] = []
    for parameter in parameters:
        alive = parameter.detach() != 0
        if parameter.ndim > 1 and bool(alive.any()) and not bool(alive.all()):
            found.append((parameter, alive))
    return found


@torch.no_grad()
def hold_(masks: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Set what was zero to zero again, after an optimizer's step."""
    for parameter, alive in masks:
        parameter.mul_(alive)
