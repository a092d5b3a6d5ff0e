"""Where PyTorch cannot train with channels last.

The gradient of the weights of a convolution with a 1 x 1 kernel, a stride and few input channels, in channels-last
order on a CPU, is written past the end of its memory by oneDNN (torch 2.13, AVX2, fewer than 8 input channels): the
process dies, or goes on with damaged memory. The shortcut of a residual network that was pruned hard is such a
convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VECTOR = 16
"""Channels that a processor computes together at most: 8 with AVX2, 16 with AVX-512. What has fewer is not tried."""


class Watch(TorchDispatchMode):
    """`crashes`: whether a step of training inside, in any order, would damage memory with channels last.

    Whatever the step computes is seen as it is computed, slices of weights as well; what takes no gradient, as a
    teacher's weights, does no harm. On a GPU nothing does.
    """

    crashes = False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            weight, stride, wanted = args[2], args[4], args[10]
            small = weight.ndim == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < VECTOR
            self.crashes |= bool(small and max(stride) > 1 and wanted[1] and weight.device.type == "cpu")
        return func(*args, **(kwargs or {}))
