"""Rounding one value at a time, and what its readers make of it.

For a value v and one way Q to round it, with the readers r of v and everything else in float:

    error(Q) = sum over r of  sum over examples |r(Q(v)) - r(v)|^2  /  sum over examples |r(v)|^2

A reader that only moves values is looked through: the operator behind it counts. Where all r(v) are zero, the divisor
is 1. The sums do not depend on the order of the examples (`math.fsum`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Interpreter, map_arg
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from lissom.functional.affine import Affine, fake_quantize
from lissom.graph.trace import Trace


@dataclass(frozen=True)
class Probe:
    """`reader` gets `value`, rounded, by way of the nodes `through`, which only move it.

    `root` is the node whose ways to round are tried; `value` is that node, or holds values moved from it.

    The reader None is the model's output.
    """

    root: str
    value: str
    through: tuple[str, ...]
    reader: str | None


class Trial(NamedTuple):
    """What one way to round did: `outputs` is error(Q), `values` the mean of (v - Q(v))^2."""

    outputs: float
    values: float


@torch.no_grad()
def trial_errors(
    trace: Trace,
    examples: Iterable[Sequence[Any]],
    probes: Sequence[Probe],
    ways: Mapping[str, Mapping[str, Affine]],
) -> dict[str, dict[str, Trial]]:
    """Errors of every way to round, by root and name of the way; those that are not finite are left out.

    `examples` are the flat inputs of one call each. All values of one call are held at a time, and
    each rounded form until its last reader has had it.
    """
    trier = _Trier(trace, probes, ways)
    for inputs in examples:
        trier.run(*inputs, enable_io_processing=False)
    return {root: trier.errors(root) for root in ways}


class _Trier(Interpreter):
    def __init__(self, trace: Trace, probes: Sequence[Probe], ways: Mapping[str, Mapping[str, Affine]]) -> None:
        super().__init__(trace.module, garbage_collect_values=False)
        self._nodes = trace.nodes
        self._ways = ways
        self._waiting: dict[str | None, list[Probe]] = defaultdict(list)
        for probe in probes:
            self._waiting[probe.reader].append(probe)
        self._probes = probes
        self._noise: dict[tuple[Probe, Affine], list[float]] = defaultdict(list)
        self._signal: dict[Probe, list[float]] = defaultdict(list)
        self._own: dict[tuple[str, Affine], list[float]] = defaultdict(list)
        self._count: dict[str, int] = defaultdict(int)
        # By value and root: one value may be rounded by its own ways, and by those of values it is joined with.
        self._held: dict[tuple[str, str], dict[Affine, Tensor]] = {}
        self._left: dict[tuple[str, str], int] = {}

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self._held, self._left = {}, dict(Counter((probe.value, probe.root) for probe in self._probes))
        return super().run(*args, **kwargs)

    def run_node(self, n: FxNode) -> Any:
        value = super().run_node(n)
        for probe in self._waiting.get(None if n.op == "output" else n.name, ()):
            self._try(probe, n, value)
            key = probe.value, probe.root
            self._left[key] -= 1
            if not self._left[key]:
                del self._held[key]
        if n.name in self._ways:
            self._count[n.name] += value.numel()
            rounded = {way: fake_quantize(value, way) for way in set(self._ways[n.name].values())}
            for way, other in rounded.items():
                self._own[n.name, way].append(_energy(other - value))
            if (n.name, n.name) in self._left:
                self._held[n.name, n.name] = rounded
        return value

    def errors(self, root: str) -> dict[str, Trial]:
        mine = [probe for probe in self._probes if probe.root == root]
        found: dict[str, Trial] = {}
        for name, way in self._ways[root].items():
            parts = [math.fsum(self._noise[probe, way]) / (math.fsum(self._signal[probe]) or 1.0) for probe in mine]
            values = math.fsum(self._own[root, way]) / max(self._count[root], 1)
            if math.isfinite(sum(parts)) and math.isfinite(values):
                found[name] = Trial(sum(parts), values)
        return found

    def _try(self, probe: Probe, reader: FxNode, value: Any) -> None:
        source = self._nodes[probe.value]
        last = self._nodes[probe.through[-1]] if probe.through else source
        wanted = _tensors(self.env[last] if probe.reader is None else value)
        self._signal[probe].append(math.fsum(_energy(one) for one in wanted))
        for way, rounded in self._rounded(probe, self.env[source]).items():
            moved, node = rounded, source
            for name in probe.through:
                moved, node = self._again(self._nodes[name], node, moved), self._nodes[name]
            got = _tensors(moved if probe.reader is None else self._again(reader, node, moved))
            noise = math.fsum(_energy(one - other) for one, other in zip(got, wanted, strict=True))
            self._noise[probe, way].append(noise)

    def _rounded(self, probe: Probe, value: Tensor) -> dict[Affine, Tensor]:
        """The probe's value on every grid, kept until its last reader has had it."""
        key = probe.value, probe.root
        if key not in self._held:
            ways = set(self._ways[probe.root].values())
            self._held[key] = {way: fake_quantize(value, way) for way in ways}
        return self._held[key]

    def _again(self, node: FxNode, source: FxNode, value: Any) -> Any:
        """What `node` gives where `source` has another value."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda one: value if one is source else self.env[one])
        return getattr(self, node.op)(node.target, args, kwargs)


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(value) if isinstance(one, Tensor) and one.is_floating_point()]


def _energy(value: Tensor) -> float:
    flat = value.reshape(-1).double()
    return float(torch.dot(flat, flat))
