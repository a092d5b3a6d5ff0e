"""A table of layers: how long each one of the original takes at other widths, precisions, ranks and depths.

    time(p) = rest + scale · sum over layers l of  there_l(depth) · split_l(rank) · t_l,precision(w_l(prune))
    w_l     = up(inputs) up(outputs) MACs / (inputs outputs),      up(c) = the next multiple of the channel step

Filled from whole networks that a runtime's profiler took apart (`history.LayerTime`), so that a time holds what the
runtime fuses into the layer and what runs between it and the next. t is a curve for each layer and precision, straight
in logarithms between the measured works w and never falling (`functional.monotone`); a precision that a layer was
measured in at fewer than three works takes the layer's best known curve, moved to where it was measured, or by what
the precision changes on average. Widths between those of measured candidates are interpolated in logarithms, too, which
layers a depth takes out linearly. What nobody measured follows arithmetic (`BEYOND`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lissom.functional.monotone import Curve, rising
from lissom.search.costs import prior_share
from lissom.search.history import LayerTime
from lissom.search.space import Point, Precision

Array = npt.NDArray[np.float64]
C = TypeVar("C", int, npt.NDArray[np.float64])
SLOPE = 0.7
"""Of log time over log work, where a layer was measured at one width only."""
CURVED = 3
"""Works from which on a precision has a curve of its own."""
BEYOND = -0.5
"""Exponent of `prune` in the channels of every layer, where no candidate was measured."""
SPLIT = -0.5
"""Exponent of `rank` for the same."""
FAR = math.log(64.0)
LEAST_MS = 1e-6
PRECISION: Precision = "float32"


class Sample(NamedTuple):
    """A candidate that was measured: what is left of the original's latency, and its layers on the original's clock."""

    point: Point
    share: float
    layers: tuple[LayerTime, ...]
    """Empty where it was not taken apart."""


class Points(NamedTuple):
    """Points as columns."""

    prune: Array
    """Logarithms, as those of `rank`."""
    rank: Array
    depth: Array
    precision: npt.NDArray[np.str_]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Points:
        return cls(
            np.log([p.prune for p in points]),
            np.log([p.rank for p in points]),
            np.array([p.depth for p in points], dtype=np.float64),
            np.array([p.precision for p in points]),
        )


@dataclass(frozen=True, eq=False)
class Table:
    """`fill` makes one."""

    rows: tuple[Row, ...]
    rest_ms: float
    """Of a call, outside of all layers."""
    scale: float
    """What the sum of layers is multiplied by: a profiler costs time itself, and looks at the calls that nothing
    disturbed."""

    def times(self, points: Sequence[Point]) -> Array:
        """Milliseconds a call."""
        columns = Points.of(points)
        return self.rest_ms + self.scale * sum((row.times(columns) for row in self.rows), np.zeros(len(points)))


@dataclass(frozen=True, eq=False)
class Row:
    """One layer of the original."""

    name: str
    channels: tuple[int, int]
    """Inputs and outputs."""
    cut: tuple[Curve, Curve]
    """Logarithm of what is left of each of them, over the logarithm of `prune`, falling: its negative is the curve."""
    density: tuple[Array, Array]
    """Logarithm of MACs / (inputs outputs), over the same: attention multiplies by heads that go, too."""
    split: tuple[Array, Array]
    there: tuple[Array, Array]
    curves: Mapping[str, Curve]
    """Logarithm of milliseconds over that of the work, by precision."""
    shifts: Mapping[str, float]
    """What is added to them."""
    step: int

    def times(self, points: Points) -> Array:
        works = np.interp(points.prune, *self.density)
        for size, cut in zip(self.channels, self.cut, strict=True):
            left = np.maximum(np.rint(size * np.exp(-cut(points.prune))), 1.0)
            works += np.log(up(left, self.step))
        found = np.zeros(len(works))
        for precision in np.unique(points.precision):
            chosen = points.precision == precision
            found[chosen] = self.curves[precision](works[chosen]) + self.shifts[precision]
        found += np.interp(points.rank, *self.split)
        return np.exp(found) * np.interp(points.depth, *self.there)


def fill(samples: Sequence[Sample], original_ms: float, step: int, precisions: Iterable[Precision]) -> Table:
    """From those candidates that were taken apart, the original the first. `precisions` can be asked for."""
    samples = [one for one in samples if one.layers]
    originals = samples[0].layers
    owned = [(s.point, _owned(s.layers, originals)) for s in samples]
    drafts = [_Draft(one, [(point, parts.get(one.name, [])) for point, parts in owned], step) for one in originals]
    moved = {name: _moved(drafts, name) for name in precisions}
    names = {one.name for one in originals}
    inside = [sum(part.ms for name in names & {*parts} for part in parts[name]) for _, parts in owned]
    rest, scale = _line(np.array(inside), np.array([s.share * original_ms for s in samples]))
    return Table(tuple(draft.row(moved) for draft in drafts), rest, scale)


def _line(inside: Array, whole: Array) -> tuple[float, float]:
    """rest and scale of whole = rest + scale inside: least squares, neither below 0."""
    spread = inside - inside.mean()
    scale = float(spread @ whole / (spread @ spread)) if spread.any() else 0.0
    rest = float(whole.mean() - scale * inside.mean())
    if scale > 0.0 and rest >= 0.0:
        return rest, scale
    return 0.0, float(inside @ whole / (inside @ inside))


def _owned(layers: Iterable[LayerTime], originals: Iterable[LayerTime]) -> dict[str, list[LayerTime]]:
    """Layers of a candidate by the layer of the original that they are, or are a part of."""
    names, found = {one.name for one in originals}, dict[str, list[LayerTime]]()
    for one in layers:
        owner = one.name
        while owner not in names and "." in owner:
            owner = owner.rpartition(".")[0]
        found.setdefault(owner, []).append(one)
    return found


class _Draft:
    """What is known of a layer."""

    def __init__(self, original: LayerTime, seen: list[tuple[Point, list[LayerTime]]], step: int) -> None:
        self.original, self.seen, self.step = original, seen, step
        self.whole = [(p, parts[0]) for p, parts in seen if len(parts) == 1 and parts[0].name == original.name]
        known: dict[str, list[tuple[float, float]]] = {}
        for point, one in self.whole:
            known.setdefault(point.precision, []).append((self.work(one), math.log(max(one.ms, LEAST_MS))))
        works = {name: np.array(pairs).T for name, pairs in known.items()}
        distinct = {name: len(dict(pairs)) for name, pairs in known.items()}
        richest = max(works, key=lambda name: (distinct[name], name == PRECISION))
        self.base = rising(*works[richest], slope=SLOPE)
        self.shifts = {name: float((y - self.base(x)).mean()) for name, (x, y) in works.items()}
        self.own = {name: rising(x, y, slope=SLOPE) for name, (x, y) in works.items() if distinct[name] >= CURVED}

    def work(self, one: LayerTime) -> float:
        """Logarithm."""
        return _density(one) + sum(math.log(up(c, self.step)) for c in _channels(one))

    def row(self, moved: Mapping[str, float]) -> Row:
        shifts = {name: self.shifts[PRECISION] + more for name, more in moved.items()} | self.shifts
        return Row(
            name=self.original.name,
            channels=_channels(self.original),
            cut=(self._cut(0), self._cut(1)),
            density=self._density(),
            split=self._split(),
            there=self._there(),
            curves={name: self.own.get(name, self.base) for name in shifts},
            shifts={name: 0.0 if name in self.own else shift for name, shift in shifts.items()},
            step=self.step,
        )

    def _pruned(self) -> list[tuple[float, LayerTime]]:
        """By what pruning alone left of it."""
        alone = [(p, one) for p, one in self.whole if p.prune > 1.0 and p.rank == 1.0 and p.depth == 0.0]
        return [(0.0, self.original), *((math.log(p.prune), one) for p, one in alone)]

    def _cut(self, side: int) -> Curve:
        size = _channels(self.original)[side]
        pairs = [(prune, -math.log(_channels(one)[side] / size)) for prune, one in self._pruned()]
        x, y = np.array(pairs).T
        return rising(x, y, slope=-BEYOND)

    def _density(self) -> tuple[Array, Array]:
        found: dict[float, list[float]] = {}
        for prune, one in self._pruned():
            found.setdefault(prune, []).append(_density(one))
        x = sorted(found)
        return np.array(x), np.array([float(np.mean(found[prune])) for prune in x])

    def _split(self) -> tuple[Array, Array]:
        """Logarithm of its parts' time beside its own, over that of `rank`."""
        found: dict[float, list[float]] = {0.0: [0.0]}
        for point, parts in self.seen:
            if point.rank > 1.0 and point.prune == 1.0 and point.depth == 0.0 and parts:
                own = self.base(np.array([self.work(self.original)]))[0] + self.shifts.get(point.precision, math.nan)
                taken = math.log(max(sum(one.ms for one in parts), LEAST_MS))
                found.setdefault(math.log(point.rank), []).append(taken - float(own))
        known = {rank: [v for v in values if not math.isnan(v)] for rank, values in found.items()}
        x = sorted(rank for rank, values in known.items() if values)
        y = [float(np.mean(known[rank])) for rank in x]
        return np.array([*x, FAR]), np.array([*y, y[-1] + SPLIT * (FAR - x[-1])])

    def _there(self) -> tuple[Array, Array]:
        """Whether a depth leaves it, over the depth: blocks go first, whatever is cut afterwards."""
        found: dict[float, list[float]] = {}
        for point, parts in self.seen:
            found.setdefault(point.depth, []).append(float(bool(parts)))
        if len(found) == 1:
            return np.array([0.0, 1.0]), np.array([1.0, 0.0])
        x = sorted(found)
        return np.array(x), np.array([float(np.mean(found[depth])) for depth in x])


def _channels(one: LayerTime) -> tuple[int, int]:
    return max(one.inputs, 1), max(one.outputs, 1)


def _density(one: LayerTime) -> float:
    inputs, outputs = _channels(one)
    return math.log(max(one.macs, 1) / (inputs * outputs))


def up(channels: C, step: int) -> C:
    """The next multiple of the step."""
    return -(-channels // step) * step


def _moved(drafts: Iterable[_Draft], precision: Precision) -> float:
    """What a precision adds to the logarithm of a layer's time, on average over the layers that were seen in it."""
    seen = [d.shifts[precision] - d.shifts[PRECISION] for d in drafts if precision in d.shifts]
    return float(np.mean(seen)) if seen else math.log(prior_share("latency", precision))
