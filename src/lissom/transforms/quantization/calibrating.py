"""Which range every rounded value gets: the methods of `lissom.functional.calibration`, and the choice among them.

The choice goes by the error in the outputs of a value's readers. It is measured on a few examples, where values that a
range clips may be missing altogether, and so is scaled by what the histogram knows of all of them:

    error of a method = error in the outputs * mean of (v - Q(v))^2 over all examples / the same over the few

A ratio estimate: Cochran 1977, "Sampling Techniques", chapter 6. It is too low where clipping disturbs the outputs more
than rounding does, so min-max stays unless another method promises to be better by more than `DOUBT`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from lissom.errors import DataError
from lissom.functional.affine import ActivationBits, Affine, affine
from lissom.functional.calibration import METHODS, Grid, Method, calibrated, mean_squared_error
from lissom.functional.ranges import Range
from lissom.graph.graph import Graph
from lissom.graph.statistics import Statistics
from lissom.graph.trials import Probe, Trial
from lissom.target import Integers
from lissom.transforms.quantization import placement
from lissom.transforms.quantization.operators import KINDS
from lissom.transforms.quantization.placement import OUTPUT, Point

DOUBT = 0.2
"""On ResNet-56 the estimates, relative to that of min-max, were at most a quarter below what all examples gave."""

LOPSIDED = 0.75
"""Share of a range on one side of zero from which a free zero point makes steps smaller by a third or more."""

Calibration = Literal["auto", "minmax", "average", "percentile", "mse", "entropy"]


def grid_of(seen: Range, table: Integers, bits: ActivationBits = 8, *, shifts: bool = False) -> Grid:
    """The grid that the target wants for a value: another one where it is never negative, and where its readers take a
    free zero point (`shifts`) and a symmetric grid would hardly use one of its halves."""
    if shifts and seen.low < 0 and max(-seen.low, seen.high) >= LOPSIDED * (seen.high - seen.low):
        return Grid(dtype=table.nonnegative, symmetric=False, bits=bits)
    return Grid(dtype=table.nonnegative if seen.low >= 0 else table.signed, symmetric=table.symmetric, bits=bits)


def shifts(graph: Graph, point: Point, table: Integers) -> bool:
    """Whether every reader of `point` takes a free zero point."""
    kinds = {KINDS.get(graph.by_name[one.node].op) if one.node in graph.by_name else None for one in point.readers}
    return bool(kinds) and kinds <= set(table.shifts)


def range_at(statistics: Statistics, root: str) -> Range:
    """What was seen of `root`.

    Raises:
        DataError: the data gave no values there.
    """
    seen = statistics.ranges.get(root)
    if seen is None:
        raise DataError(
            f"The calibration data gave no values at {root!r}: no batch, or only empty tensors there. Give "
            "more calibration data, or leave the layer out with Quantize(exclude=...)."
        )
    return seen


def numbers_by(
    statistics: Statistics,
    root: str,
    method: Method,
    table: Integers,
    percentile: float,
    bits: ActivationBits = 8,
    *,
    shifts: bool = False,
) -> Affine:
    """Scale and zero point that `method` gives to `root`; `shifts` as in `grid_of`.

    Raises:
        DataError: the data gave no values there, or no histograms were made.
    """
    seen = range_at(statistics, root)
    grid = grid_of(seen, table, bits, shifts=shifts)
    low, high = seen.low, seen.high
    if method != "minmax":
        histogram, means = statistics.histograms.get(root), statistics.means.get(root)
        if histogram is None or means is None:
            raise DataError(
                f"Quantize(calibration={method!r}) needs a histogram of {root!r}, and the statistics hold its range "
                "only. Make them with Quantize.study or observe(..., histograms=True)."
            )
        low, high = calibrated(method, histogram, means, grid, percentile)
    return affine(low, high, grid.dtype, symmetric=grid.symmetric, bits=bits)


def ways(
    graph: Graph,
    statistics: Statistics,
    points: Iterable[tuple[Point, ActivationBits]],
    table: Integers,
    percentile: float,
) -> dict[str, dict[str, Affine]]:
    """What every method gives to every root that was seen, on the coarsest of its grids."""
    roots: dict[str, tuple[ActivationBits, bool]] = {}
    for point, bits in points:
        if point.root in statistics.ranges:
            before = roots.get(point.root, (bits, True))
            roots[point.root] = (min(bits, before[0]), before[1] and shifts(graph, point, table))
    return {
        root: {method: numbers_by(statistics, root, method, table, percentile, bits, shifts=free) for method in METHODS}
        for root, (bits, free) in roots.items()
    }


def estimates(
    statistics: Statistics, tried: Mapping[str, Mapping[str, Trial]], rounded: Mapping[str, Mapping[str, Affine]]
) -> dict[str, dict[str, float]]:
    """Error of every way to round every root, in the outputs of its readers, over all examples."""
    found: dict[str, dict[str, float]] = {}
    for root, trials in tried.items():
        seen = statistics.histograms[root]
        overall = {way: mean_squared_error(seen, rounded[root][way]) for way in trials}
        found[root] = {
            way: trial.outputs * (overall[way] / trial.values if trial.values else 1.0) for way, trial in trials.items()
        }
    return found


def best(trials: Mapping[str, Mapping[str, float]], root: str) -> Method:
    """The method of least error; min-max unless it makes more error than that by `DOUBT`.

    Raises:
        DataError: nothing was tried.
    """
    if root not in trials:
        raise DataError(
            f"Quantize(calibration='auto') needs trials of {root!r}, and the statistics hold none. Make them with "
            "Quantize.study."
        )
    errors = trials[root]
    chosen: Method = "minmax"
    for method in METHODS:
        wanted = (1 - DOUBT if chosen == "minmax" else 1.0) * errors.get(chosen, math.inf)
        if errors.get(method, math.inf) < wanted:
            chosen = method
    return chosen


def probes(graph: Graph, points: Sequence[Point]) -> list[Probe]:
    """Every operator that gets a rounded value, looking through those that only move it."""
    found: dict[tuple[str, str, str | None], Probe] = {}
    for point in points:
        for reader in point.readers:
            first = Probe(point.root, point.value, (), None if reader.node == OUTPUT else reader.node)
            for probe in _reached(graph, first):
                # A value rounded both before and after it is moved is rounded once: it is on the grid already.
                found.setdefault((probe.root, _last(probe), probe.reader), probe)
    return list(found.values())


def _reached(graph: Graph, probe: Probe) -> list[Probe]:
    if probe.reader is None or placement.moved_from(graph, probe.reader) != _last(probe):
        return [probe]
    moved = probe.reader
    onward = [*graph.consumers[moved], *([None] if moved in graph.outputs else [])]
    steps = [Probe(probe.root, probe.value, (*probe.through, moved), reader) for reader in onward]
    return [final for step in steps for final in _reached(graph, step)]


def _last(probe: Probe) -> str:
    return probe.through[-1] if probe.through else probe.value
