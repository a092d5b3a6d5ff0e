"""Signal to quantization noise per layer: the float graph and the rounded one, run side by side on one batch.

SQNR = 10 log10( sum x^2 / sum (x - x̂)^2 )    dB, per layer output
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter
from torch.fx import Node as FxNode

from lissom.functional.affine import Affine, fake_quantize
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
        if (ratio := ratio_db([signal], [other])) is not None:
            found[name] = ratio
    return found


@dataclass(frozen=True)
class Rounded:
    """An operator's first input and its weight as integers would have them; None leaves the input as it is."""

    numbers: Affine | None
    weight: torch.Tensor


def own_sqnr_db(plain: GraphModule, batch: Batch, rounded: Mapping[str, Rounded]) -> dict[str, float]:
    """SQNR in dB of each named node when it alone is rounded, on the exact inputs; noise-free nodes are left out."""
    runner = _Alone(plain, rounded)
    with torch.no_grad():
        runner.run(*batch.tensors())
    return runner.found


class _Alone(Interpreter):
    def __init__(self, module: GraphModule, rounded: Mapping[str, Rounded]) -> None:
        super().__init__(module)
        self._rounded = rounded
        self.found: dict[str, float] = {}

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        if (how := self._rounded.get(n.name)) is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            given = args[0] if how.numbers is None else fake_quantize(args[0], how.numbers)
            other = self.call_function(n.target, (given, how.weight, *args[2:]), kwargs)
            if (ratio := ratio_db([value.double()], [other.double()])) is not None:
                self.found[n.name] = ratio
        return value


def ratio_db(signal: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float | None:
    """SQNR in dB over all tensors together; None without signal or without noise."""
    noise = sum(float((a - b).square().sum()) for a, b in zip(signal, other, strict=True))
    power = sum(float(a.square().sum()) for a in signal)
    return 10 * math.log10(power / noise) if noise > 0 and power > 0 else None
