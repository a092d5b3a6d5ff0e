"""Where PyTorch cannot train with channels last.

The gradient of the weights of a convolution with a 1 x 1 kernel, a stride and few input channels, in channels-last
order on a CPU, is written past the end of its memory by oneDNN (torch 2.13, AVX2, fewer than 8 input channels): the
process dies, or goes on with damaged memory. The shortcut of a residual network that was pruned hard is such a
convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lissom.graph.trace import quiet
from lissom.task import Batch

VECTOR = 16
"""Channels that a processor computes together at most: 8 with AVX2, 16 with AVX-512. What has fewer is not tried."""


class _Watch(TorchDispatchMode):
    """Notes whether a convolution is called that cannot be trained."""

    found = False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            weight, stride = args[1], args[3]
            self.found |= _small(weight) and any(step > 1 for step in stride)
        return func(*args, **(kwargs or {}))


def _small(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < VECTOR


def crashes_channels_last(model: nn.Module, batch: Batch) -> bool:
    """Whether training this model on this CPU with channels last would damage memory; on a GPU nothing does.

    Looks at one forward pass of a copy, and only where a weight could be that of such a convolution.
    """
    few = [p for p in model.parameters() if _small(p)]
    if not few or few[0].device.type != "cpu":
        return False
    with quiet():
        watched = copy.deepcopy(model)
    with torch.no_grad(), _Watch() as watch:
        watched(*batch.args, **dict(batch.kwargs))
    return watch.found
