"""Signal to quantization noise per layer: the float graph and the rounded one, run side by side on one batch.

SQNR = 10 log10( sum x^2 / sum (x - x̂)^2 )    dB, per layer output
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from lissom.task import Batch


class _Recorder(Interpreter):
    def __init__(self, module: GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self._names = names
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.values[n.name] = value.double()
        return value


def sqnr_db(plain: GraphModule, rounded: GraphModule, batch: Batch, names: Collection[str]) -> dict[str, float]:
    """SQNR in dB of each named node that both graphs have; infinite noise-free layers are left out."""
    recorders = [_Recorder(module, names) for module in (plain, rounded)]
    with torch.no_grad():
        for recorder in recorders:
            recorder.run(*batch.tensors())
    found: dict[str, float] = {}
    for name, signal in recorders[0].values.items():
        other = recorders[1].values.get(name)
        if other is None or other.shape != signal.shape:
            continue
        noise, power = float((signal - other).square().sum()), float(signal.square().sum())
        if noise > 0 and power > 0:
            found[name] = 10 * math.log10(power / noise)
    return found
