"""The trainings of a run, epoch by epoch: figure, table, words. Pure functions of the record."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.records import StepRecord, TrainingRecord
from lissom.report.plotting import BLUE, GREEN, Json, axis_of, figure_of, hover_of, safe
from lissom.report.tables import Column, Table
from lissom.report.units import metric_value_text, percent_factor, plural, seconds_text, significant

HEIGHT = 320
GAP = 0.06
"""Between the panels, as a share of the figure's width."""


def trained(steps: Sequence[StepRecord]) -> tuple[tuple[int, StepRecord, TrainingRecord], ...]:
    """Steps that trained for at least one epoch, with their numbers (from 1)."""
    return tuple((n, s, s.training) for n, s in enumerate(steps, start=1) if s.training and s.training.epochs)


def title(number: int, step: StepRecord) -> str:
    return f"Step {number}, {step.title or step.transform}: loss and metric of each epoch"


def curves(training: TrainingRecord) -> go.Figure:
    """Mean loss of each epoch; beside it, where there is one, the validation metric."""
    metrics = _metrics(training)
    traces = [_trace(training, [epoch.loss for epoch in training.epochs], "training loss", BLUE, "")]
    ticks: Json = {"range": [0.5, len(training.epochs) + 0.5], "tickformat": "d"}
    ticks |= {"dtick": 1} if len(training.epochs) <= 10 else {}
    layout: Json = {
        "height": HEIGHT,
        "xaxis": axis_of("Epoch", domain=[0, 0.5 - GAP if metrics else 1], **ticks),
        "yaxis": _upright("Loss"),
    }
    if metrics:
        traces.append(_trace(training, metrics, safe(f"{training.metric_name}, validation"), GREEN, "2"))
        layout |= {
            "xaxis2": axis_of("Epoch", domain=[0.5 + GAP, 1], anchor="y2", **ticks),
            "yaxis2": _upright(safe(_metric_title(training)), anchor="x2"),
        }
    return figure_of(traces, layout)


def _upright(title: str, **more: object) -> Json:
    # clear of the tick labels, which are wider than the margin that is guessed for them
    return {**axis_of(title, **more), "title": {"text": title, "font": {"size": 13}, "standoff": 14}}


def _trace(training: TrainingRecord, values: Sequence[float | None], name: str, colour: str, panel: str) -> Json:
    epochs = range(len(training.epochs))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [epoch + 1 for epoch in epochs],
        "y": list(values),
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
        "line": {"color": colour, "width": 1.5},
        "marker": {
            "color": colour,
            "size": [11 if epoch == training.chosen else 6 for epoch in epochs],
            "opacity": 1,
            "symbol": ["diamond" if epoch == training.chosen else "circle" for epoch in epochs],
        },
        "hovertext": [_hover(training, epoch) for epoch in epochs],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _metrics(training: TrainingRecord) -> list[float | None]:
    """In percent where it is a share; empty where no epoch has one."""
    found = [epoch.metric for epoch in training.epochs]
    if all(value is None for value in found):
        return []
    factor = _factor(training) or 1.0
    return [None if value is None else value * factor for value in found]


def _factor(training: TrainingRecord) -> float | None:
    values = [epoch.metric for epoch in training.epochs if epoch.metric is not None]
    return percent_factor(training.metric_name or "", *values)


def _metric_title(training: TrainingRecord) -> str:
    name = training.metric_name or "metric"
    return name if _factor(training) is None else f"{name}, %"


def _hover(training: TrainingRecord, epoch: int) -> str:
    one = training.epochs[epoch]
    lines = [f"epoch {epoch + 1}{', chosen' if epoch == training.chosen else ''}", f"loss {significant(one.loss, 4)}"]
    if one.metric is not None:
        lines.append(f"{training.metric_name} {metric_value_text(training.metric_name or '', one.metric)}")
    return hover_of(*lines, f"learning rate {one.learning_rate:.3g}", seconds_text(one.seconds))


def table(training: TrainingRecord) -> Table:
    columns = (
        Column("Epoch"),
        Column("Training loss", "number"),
        Column("Metric (validation)", "number"),
        Column("Learning rate", "number"),
        Column("Time", "number"),
        Column("Weights kept"),
    )
    rows = tuple(
        (
            str(epoch + 1),
            significant(one.loss, 4),
            metric_value_text(training.metric_name or "", one.metric),
            f"{one.learning_rate:.3g}",
            seconds_text(one.seconds),
            "kept" if epoch == training.chosen else "",
        )
        for epoch, one in enumerate(training.epochs)
    )
    return Table("Epochs of the training", columns, rows)


def description(training: TrainingRecord) -> str:
    """The curves in words, for those who do not see them."""
    first, last = training.epochs[0], training.epochs[-1]
    text = (
        f"Lines over {plural(len(training.epochs), 'epoch')}. Training loss from {significant(first.loss, 4)} to "
        f"{significant(last.loss, 4)}."
    )
    kept = training.epochs[training.chosen].metric
    if kept is not None:
        name = training.metric_name or "metric"
        text += f" {name} on validation after epoch {training.chosen + 1}, which is kept: "
        text += f"{metric_value_text(name, kept)}."
    return f"{text} The table has all."


def caption(training: TrainingRecord) -> str:
    """Which weights are kept, and in what the steps were computed, timed where there was a choice."""
    kept = training.chosen + 1
    order = ", channels last" * training.channels_last + ", compiled" * training.compiled
    timed = "; ".join(f"{way}: {significant(ms)} ms" for way, ms in training.step_ms.items())
    why = f" Forward and backward pass in {timed}." if timed else ""
    return (
        f"Diamond: epoch {kept}, whose weights are kept. Loss as trained on, with augmentation and penalties. "
        f"Computed in {training.precision}{order}.{why}"
    )
