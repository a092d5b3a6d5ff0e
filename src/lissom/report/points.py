"""What the scatter of several models shows: points in the plane of latency against metric or size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lissom.measure.records import Interval, RunRecord, Side, TargetTrial
from lissom.report.tables import Column, Table, run_labels
from lissom.report.units import bytes_text, interval_text, metric_value_text, ms_text, percent_factor

Role = Literal["before", "after", "trial"]


@dataclass(frozen=True)
class Vertical:
    """The other axis: a metric that all the runs share, or the size in MB where they share none."""

    metric: str | None
    scale: float
    """From the record's unit (bytes for a size) to the axis's."""
    percent: bool

    @property
    def title(self) -> str:
        if self.metric is None:
            return "Size, MB"
        return f"{self.metric}{', %' if self.percent else ''}"


@dataclass(frozen=True)
class Point:
    """One model. `lines` say all about it."""

    name: str
    role: Role
    run: int
    latency: Interval
    y: float
    size_bytes: int | None
    lines: tuple[str, ...]


def vertical(runs: Sequence[RunRecord]) -> Vertical:
    """A metric is an axis only when every run has it, by the same name and on the same split."""
    metrics = [side.metric for run in runs for side in (run.before, run.after)]
    first = metrics[0] if metrics else None
    if first is None or any(m is None or (m.name, m.split) != (first.name, first.split) for m in metrics):
        return Vertical(metric=None, scale=1e-6, percent=False)
    factor = percent_factor(first.name, *(m.value for m in metrics if m is not None))
    return Vertical(metric=first.name, scale=factor or 1.0, percent=factor is not None)


def tradeoff_points(runs: Sequence[RunRecord]) -> tuple[Point, ...]:
    """Originals, compressed models, and the candidates that were not chosen, where they have both figures."""
    axis = vertical(runs)
    points: list[Point | None] = []
    for index, (run, label) in enumerate(zip(runs, run_labels(runs), strict=True)):
        points += [_side_point(run.before, "before", index, label, axis)]
        points += [_side_point(run.after, "after", index, label, axis)]
        points += [_trial_point(trial, index, axis) for trial in run.trials if not trial.chosen]
    return tuple(point for point in points if point is not None)


def points_table(runs: Sequence[RunRecord]) -> Table:
    """The scatter's numbers."""
    axis = vertical(runs)
    rows = tuple(
        (
            point.lines[0],
            interval_text(point.latency) if point.role != "trial" else ms_text(point.latency.median),
            metric_value_text(axis.metric, point.y / axis.scale) if axis.metric else "not comparable",
            bytes_text(point.size_bytes),
        )
        for point in tradeoff_points(runs)
    )
    metric = Column(axis.metric or "Metric", "number")
    columns = (Column("Model"), Column("Latency per call", "number"), metric, Column("Size", "number"))
    return Table("Latency, metric and size of each model drawn", columns, rows)


def _side_point(side: Side, role: Literal["before", "after"], run: int, label: str, axis: Vertical) -> Point:
    value = side.metric.value if axis.metric and side.metric else side.size_bytes
    figures = (
        metric_value_text(axis.metric, value) + f" {axis.metric}" if axis.metric else "",
        bytes_text(side.size_bytes),
        f"batch of {side.batch_size}",
    )
    lines = (f"{label}, {role}", interval_text(side.latency_ms), ", ".join(f for f in figures if f))
    return Point(role, role, run, side.latency_ms, value * axis.scale, side.size_bytes, lines)


def _trial_point(trial: TargetTrial, run: int, axis: Vertical) -> Point | None:
    value = trial.metric if axis.metric else trial.size_bytes
    if trial.latency_ms is None or value is None:
        return None
    name = f"{trial.target}, {trial.recipe}"
    lines = [
        f"candidate: {name}",
        f"{ms_text(trial.latency_ms)}, {bytes_text(trial.size_bytes)}",
        f"{metric_value_text(axis.metric, trial.metric)} {axis.metric}" if axis.metric else "",
        f"not chosen: {trial.note}" if trial.note else "not chosen",
    ]
    latency = Interval(median=trial.latency_ms, low=trial.latency_ms, high=trial.latency_ms)
    return Point(name, "trial", run, latency, value * axis.scale, trial.size_bytes, tuple(x for x in lines if x))
