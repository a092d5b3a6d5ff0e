"""Figures of a run: pure functions of the record."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.records import Interval, Latency, LayerRecord, RunRecord
from lissom.report.plotting import (
    AFTER_COLOUR,
    BEFORE_COLOUR,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    Json,
    axis_of,
    figure_of,
    hover_of,
    safe,
    tail_of,
)
from lissom.report.points import Point, Vertical, tradeoff_points, vertical
from lissom.report.tables import as_planned, run_labels
from lissom.report.units import (
    bytes_text,
    count_text,
    db_text,
    ms_text,
    significant,
)

Rows = Sequence[tuple[int, LayerRecord]]

RUN_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, GREY)
TRADEOFF_HEIGHT, SAMPLES_HEIGHT = 420, 340

_ARITHMETIC = {
    "int8": (BLUE, ""),
    "int8 dynamic": (GREEN, "."),
    "float32": (VERMILION, "/"),
    "unknown": (GREY, "x"),
}
_OTHER_ARITHMETIC = (PURPLE, "-")


def tradeoff(runs: Sequence[RunRecord]) -> go.Figure:
    """Latency, metric and size (marker area) of the originals, the compressed models and the candidates."""
    axis = vertical(runs)
    points = tradeoff_points(runs)
    largest = max((point.size_bytes or 0 for point in points), default=0)
    traces = [_run_path(points, index, len(runs)) for index in range(len(runs))]
    for index, label in enumerate(run_labels(runs)):
        for role, word in (("trial", "candidate"), ("before", "before"), ("after", "after")):
            chosen = [p for p in points if p.run == index and p.role == role]
            if chosen:
                name = word if len(runs) == 1 else f"{label}, {word}"
                traces.append(_points_trace(chosen, name, _point_colour(role, index, len(runs)), largest))
    batches = {side.batch_size for run in runs for side in (run.before, run.after)}
    batch = f" (batch of {batches.pop()})" if len(batches) == 1 else ""
    layout: Json = {
        "height": TRADEOFF_HEIGHT,
        "xaxis": axis_of(f"Latency, ms per call{batch}", rangemode="tozero"),
        "yaxis": axis_of(safe(axis.title), range=_y_range([point.y for point in points], axis)),
    }
    return figure_of(traces, layout)


def _y_range(values: Sequence[float], axis: Vertical) -> list[float]:
    """At least two points (or 2 % of another unit) high: a zoomed axis makes noise look like a loss."""
    low, high = min(values), max(values)
    if axis.metric is None:
        return [0.0, high * 1.15]
    least = 1.0 if axis.percent else 0.01 * max(abs(low), abs(high), 1e-9)
    margin = max((high - low) * 0.3, least)
    return [low - margin, high + margin]


def _run_path(points: Sequence[Point], index: int, runs: int) -> Json:
    ends = [point for point in points if point.run == index and point.role != "trial"]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [point.latency.median for point in ends],
        "y": [point.y for point in ends],
        "line": {"color": _point_colour("before", index, runs), "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _point_colour(role: str, index: int, runs: int) -> str:
    if runs > 1:
        return RUN_COLOURS[index % len(RUN_COLOURS)]
    return {"before": BEFORE_COLOUR, "after": AFTER_COLOUR}.get(role, PURPLE)


def _points_trace(points: Sequence[Point], name: str, colour: str, largest: int) -> Json:
    role = points[0].role
    symbol = {"before": "circle-open", "after": "circle", "trial": "diamond-open"}[role]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": safe(name),
        "legendrank": 2 if role == "trial" else 1,
        "x": [p.latency.median for p in points],
        "y": [p.y for p in points],
        "marker": {
            "symbol": symbol,
            "size": [_diameter(p.size_bytes, largest) for p in points],
            "color": colour,
            "line": {"width": 2, "color": colour},
            "opacity": 1,
        },
        "text": [hover_of(*point.lines) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _diameter(size_bytes: int | None, largest: int) -> float:
    """Pixels: the area is proportional to the size, down to a marker that can still be hit."""
    return max(8.0, 44.0 * math.sqrt(size_bytes / largest)) if size_bytes and largest else 8.0


def latency_samples(run: RunRecord) -> go.Figure:
    """Each A/B round's latency of both models, their medians, and the medians' 95 % intervals."""
    before, after = run.before.latency_ms, run.after.latency_ms
    traces = [
        _samples_trace("before", before, BEFORE_COLOUR, "circle-open"),
        _samples_trace("after", after, AFTER_COLOUR, "circle"),
    ]
    rounds = max(len(before.samples), len(after.samples), 1)
    sides = ((before, BEFORE_COLOUR), (after, AFTER_COLOUR))
    bands = [shape for latency, colour in sides for shape in _median_shapes(latency, colour)]
    layout: Json = {
        "height": SAMPLES_HEIGHT,
        "xaxis": axis_of("Round (both models timed in turns)", range=[0.5, rounds + 0.5]),
        "yaxis": axis_of("Latency, ms per call", rangemode="tozero"),
        "shapes": bands,
    }
    return figure_of(traces, layout)


def _samples_trace(name: str, latency: Latency, colour: str, symbol: str) -> Json:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{name}, median {ms_text(latency.median)}",
        "x": list(range(1, len(latency.samples) + 1)),
        "y": list(latency.samples),
        "line": {"color": colour, "width": 1.5},
        "marker": {"color": colour, "size": 6, "symbol": symbol},
        "hovertemplate": f"{name}, round %{{x}}: %{{y:.4g}} ms<extra></extra>",
    }


def _median_shapes(interval: Interval, colour: str) -> tuple[Json, Json]:
    across: Json = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    band: Json = {"type": "rect", "y0": interval.low, "y1": interval.high, "fillcolor": colour}
    line: Json = {"type": "line", "y0": interval.median, "y1": interval.median}
    return (
        {**across, **band, "opacity": 0.22, "line": {"width": 0}},
        {**across, **line, "line": {"color": colour, "width": 1.5, "dash": "dash"}},
    )


def layer_bars(run: RunRecord) -> go.Figure:
    """MACs and SQNR of each layer, in order, coloured and hatched by the arithmetic it really ran in."""
    traces: list[Json] = []
    for ran in dict.fromkeys(layer.ran for layer in run.layers):
        rows = [(i, layer) for i, layer in enumerate(run.layers) if layer.ran == ran]
        traces.append(_layer_trace(rows, ran, [layer.macs for _, layer in rows], "x", legend=True))
        traces.append(_layer_trace(rows, ran, [layer.sqnr_db for _, layer in rows], "x2", legend=False))
    # rows are numbered, not named, so that the model's order holds and two long names may look alike
    labels: Json = {
        "tickmode": "array",
        "tickvals": list(range(len(run.layers))),
        "ticktext": [safe(tail_of(layer.layer)) for layer in run.layers],
        "showgrid": False,
    }
    layout: Json = {
        "height": layers_height(run),
        "barmode": "overlay",
        "bargap": 0.3,
        "xaxis": axis_of("MACs per example", domain=[0, 0.48], exponentformat="SI"),
        "xaxis2": axis_of("SQNR, dB", domain=[0.52, 1], anchor="y"),
        "yaxis": axis_of("", range=[len(run.layers) - 0.5, -0.5], **labels),
    }
    return figure_of(traces, layout)


def layers_height(run: RunRecord) -> int:
    """Pixels; the page reserves them before the figure is drawn, so that nothing jumps."""
    return 120 + 22 * len(run.layers)


def _layer_trace(rows: Rows, ran: str, values: Sequence[float | None], axis: str, *, legend: bool) -> Json:
    colour, hatch = _ARITHMETIC.get(ran, _OTHER_ARITHMETIC)
    return {
        "type": "bar",
        "orientation": "h",
        "name": "not reported" if ran == "unknown" else f"ran as {safe(ran)}",
        "y": [row for row, _ in rows],
        "x": list(values),
        "xaxis": axis,
        "legendgroup": safe(ran),
        "showlegend": legend,
        "marker": {
            "color": colour,
            "pattern": {
                "shape": hatch,
                "fillmode": "overlay",
                "fgcolor": "#ffffff",
                "fgopacity": 0.6,
                "size": 6,
            },
        },
        "hovertext": [_layer_hover(layer) for _, layer in rows],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _layer_hover(layer: LayerRecord) -> str:
    arithmetic = "not reported by the runtime" if layer.ran == "unknown" else f"ran as {layer.ran}"
    planned = "" if as_planned(layer) else f", planned {layer.planned}"
    cost = f"{count_text(layer.macs)} MACs, {count_text(layer.parameters_after)} parameters"
    return hover_of(f"{layer.layer} ({layer.op})", arithmetic + planned, cost, f"SQNR {db_text(layer.sqnr_db)}")


def describe_tradeoff(runs: Sequence[RunRecord]) -> str:
    """The scatter in words, for those who do not see it."""
    parts = [
        f"{label}: {ms_text(run.before.latency_ms.median)} and {bytes_text(run.before.size_bytes)} before,"
        f" {ms_text(run.after.latency_ms.median)} and {bytes_text(run.after.size_bytes)} after"
        for run, label in zip(runs, run_labels(runs), strict=True)
    ]
    return f"Scatter of latency against {vertical(runs).metric or 'size'}. {'; '.join(parts)}."


def describe_samples(run: RunRecord) -> str:
    before, after = run.before.latency_ms, run.after.latency_ms
    spans = (
        f"{name}: median {ms_text(side.median)}, from {significant(min(side.samples))} to"
        f" {significant(max(side.samples))} ms"
        for name, side in (("before", before), ("after", after))
        if side.samples
    )
    return f"Latency of each timed round. {'; '.join(spans)}."
