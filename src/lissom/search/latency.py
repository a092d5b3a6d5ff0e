"""How long a candidate will take, from a table of layers and everything that was measured whole.

    log share(p) = log time(p) / time(original) + g(x(p)),      g ~ Gaussian process

time is the table's sum (`search.layers`); g is what the whole candidates leave over of it (`functional.gaussian`), with
x(p) = (log2 prune, log2 rank, 4 depth, one indicator for each precision). Its standard deviation is how unsure a
prediction is: small near what was measured, larger far away. What the model is off by is told by leaving each measured
candidate out of the table and of g, and predicting it: the mean |predicted / measured - 1|, over `MOST` of them, evenly
taken from the first to the last, where there are more.

Without the times of layers, for a runtime that has no profiler, latency is foretold like other costs (`search.costs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from lissom.functional import gaussian
from lissom.search.costs import PRECISIONS, fit_costs
from lissom.search.history import Measurement, Probe, Timed, Trial, View
from lissom.search.layers import Sample, Table, fill
from lissom.search.space import Point, Precision

Array = npt.NDArray[np.float64]
PRIOR = 0.15
"""Standard deviation of the logarithm of what a table is off by, before anything was measured whole."""
FEWEST, MOST = 3, 30
"""Candidates from which on an error is told, and of which at most: each costs a fit."""


@dataclass(frozen=True, eq=False)
class Foretold:
    """Shares of the original's latency, and how far off each may be, relatively: one standard deviation."""

    shares: Array
    unsure: Array


@dataclass(frozen=True, eq=False)
class LayerModel:
    table: Table
    left_over: gaussian.Process
    original_ms: float
    """As the table has it."""

    def predict(self, points: Sequence[Point]) -> Foretold:
        mean, deviation = self.left_over.predict(features(points))
        shares = self.table.times(points) / self.original_ms * np.exp(mean)
        return Foretold(shares, np.expm1(deviation))


def fit_layers(samples: Sequence[Sample], original_ms: float, step: int) -> LayerModel:
    """`samples[0]` is the original."""
    table = fill(samples, original_ms, step, get_args(Precision))
    own = float(table.times([Point()])[0])
    whole: dict[Point, list[float]] = {}
    for one in samples:
        whole.setdefault(one.point, []).append(one.share)
    points = list(whole)
    measured = np.log([float(np.mean(shares)) for shares in whole.values()])
    wrong = measured - np.log(table.times(points) / own)
    return LayerModel(table, gaussian.fit(features(points), wrong, prior=PRIOR), own)


def features(points: Sequence[Point]) -> Array:
    """(n, 3 + precisions); the original is 0."""
    rows = [
        [np.log2(p.prune), np.log2(p.rank), 4.0 * p.depth, *(float(p.precision == one) for one in PRECISIONS)]
        for p in points
    ]
    return np.array(rows, dtype=np.float64).reshape(len(points), -1)


def samples_of(original: Measurement, trials: Iterable[Trial], probes: Iterable[Probe]) -> list[Sample]:
    """Whatever was measured, the original first; empty if that was not taken apart.

    A candidate's layers are moved to the clock of the original: both were timed in alternation with it.
    """
    if not original.layers:
        return []
    timed: list[tuple[Point, Timed | Measurement]] = [(p.point, p.timed) for p in probes if p.timed is not None]
    timed += [(t.point, t.measurement) for t in trials if t.measurement is not None]
    return [Sample(Point(), 1.0, original.layers), *(_sample(p, one, original.latency_ms) for p, one in timed)]


def _sample(point: Point, one: Timed | Measurement, original_ms: float) -> Sample:
    drift = original_ms / (one.latency_ratio * one.latency_ms)
    layers = tuple(layer.model_copy(update={"ms": layer.ms * drift}) for layer in one.layers)
    return Sample(point.with_(epochs=0), 1.0 / one.latency_ratio, layers)


def foretell(view: View, points: Sequence[Point]) -> Foretold:
    """From everything that the view knows."""
    samples = samples_of(view.original, view.trials, view.probes)
    if samples:
        return fit_layers(samples, view.original.latency_ms, view.step).predict(points)
    tried, shares = _whole(view.trials)
    model = fit_costs("latency", tried, shares)
    return Foretold(model.predict(points), np.full(len(points), model.error))


def _whole(trials: Iterable[Trial]) -> tuple[list[Point], list[float]]:
    done = [(t.point, t.measurement) for t in trials if t.measurement is not None]
    return [p for p, _ in done], [1.0 / m.latency_ratio for _, m in done]


@dataclass(frozen=True)
class Accuracy:
    """Of the predicted latency. `error` is relative, None before three candidates were measured."""

    error: float | None
    layers: int
    """In the table; 0 where the network is foretold as a whole."""
    candidates: int
    """That the model was fitted on, besides the original; each was left out once."""


def accuracy(original: Measurement, trials: Iterable[Trial], probes: Iterable[Probe], step: int) -> Accuracy:
    """By leaving out one point at a time, with everything that was measured at it."""
    trials = [t for t in trials if t.measurement is not None]
    samples = samples_of(original, trials, probes)
    if not samples:
        changed = [t for t in trials if t.point.epochs == 0 and t.point != Point()]
        tried, shares = _whole(changed)
        enough = len(changed) >= FEWEST
        return Accuracy(fit_costs("latency", tried, shares).error if enough else None, 0, len(changed))
    off = left_out(samples, original.latency_ms, step)
    error = float(np.mean(np.abs(off))) if len(off) >= FEWEST else None
    return Accuracy(error, len(original.layers), len(samples) - 1)


def left_out(samples: Sequence[Sample], original_ms: float, step: int) -> list[float]:
    """predicted / measured - 1 of `MOST` points, none of them the original's, each predicted from all the others."""
    found: list[float] = []
    points = [point for point in dict.fromkeys(s.point for s in samples) if point != Point()]
    places = np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST)).round().astype(int))
    for point in (points[place] for place in places):
        rest = [s for s in samples if s.point != point]
        share = float(np.mean([s.share for s in samples if s.point == point]))
        found.append(float(fit_layers(rest, original_ms, step).predict([point]).shares[0]) / share - 1.0)
    return found


def careful(foretold: Foretold) -> Array:
    """Shares with the margin that a bound is kept by: one standard deviation, and half of the share at most."""
    return foretold.shares * (1.0 + np.minimum(foretold.unsure, 0.5))
