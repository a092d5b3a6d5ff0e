"""Sparsity that survives training: what was set to zero stays zero."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lissom.functional.sparsity import support


def masks_of(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Parameters with the mask of what may change in them, for those that were pruned."""
    found = ((parameter, support(parameter)) for parameter in parameters)
    return [(parameter, alive) for parameter, alive in found if alive is not None]


@torch.no_grad()
def hold_(masks: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
    """Set what was zero to zero again, after an optimizer's step."""
    for parameter, alive in masks:
        parameter.mul_(alive)
