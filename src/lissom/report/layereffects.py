"""What each method does to each layer by itself: a heat map, its table, words. Pure functions of the record."""

from __future__ import annotations

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.search_records import LayerEffect, LayerSensitivity
from lissom.report.plotting import Json, axis_of, figure_of, hover_of, safe, tail_of
from lissom.report.tables import Column, Table
from lissom.report.units import plural, significant

MANY = 40
"""Layers from which on the figure gets a frame to scroll in."""
WORDS = {
    "prune": "half of the outputs zero",
    "rank": "half of the products",
    "int8": "8-bit weights",
    "int4": "4-bit weights",
}


def _layers(found: LayerSensitivity) -> list[str]:
    return list(dict.fromkeys(one.layer for one in found.effects))


def _methods(found: LayerSensitivity) -> list[str]:
    return [name for name in WORDS if any(one.method == name for one in found.effects)]


def _grid(found: LayerSensitivity) -> list[list[LayerEffect | None]]:
    """A row for each layer, a column for each method."""
    cells = {(one.layer, one.method): one for one in found.effects}
    return [[cells.get((layer, method)) for method in _methods(found)] for layer in _layers(found)]


def heat(found: LayerSensitivity) -> go.Figure:
    """Layers by methods, the costliest layer on top; colour and text: the drop of the metric."""
    layers, methods, grid = _layers(found), _methods(found), _grid(found)
    most = max((one.drop for one in found.effects), default=0.0)
    trace: Json = {
        "type": "heatmap",
        "x": [f"{name}: {WORDS[name]}" for name in methods],
        "y": list(range(len(layers))),
        "z": [[None if one is None else one.drop for one in row] for row in grid],
        # A metric that rises by chance is no gain: it gets the colour of nothing lost.
        "zmin": 0.0,
        "zmax": max(most, 1e-9),
        "text": [["" if one is None else significant(one.drop) for one in row] for row in grid],
        "texttemplate": "%{text}",
        "customdata": [["" if one is None else hover_of(*_lines(one)) for one in row] for row in grid],
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": [[0.0, "rgba(213,94,0,0.02)"], [1.0, "rgba(213,94,0,0.62)"]],
        "colorbar": {"title": {"text": "drop"}, "thickness": 12},
        "xgap": 2,
        "ygap": 2,
    }
    # rows are numbered, not named: two long names may look alike
    labels: Json = {
        "tickmode": "array",
        "tickvals": list(range(len(layers))),
        "ticktext": [safe(tail_of(name, 22)) for name in layers],
        "showgrid": False,
    }
    layout: Json = {
        "height": height(found),
        "xaxis": axis_of("", type="category", side="top"),
        "yaxis": axis_of("", range=[len(layers) - 0.5, -0.5], **labels),
    }
    return figure_of([trace], layout, top=48)


def height(found: LayerSensitivity) -> int:
    return 120 + 28 * len(_layers(found))


def _lines(one: LayerEffect) -> tuple[str, ...]:
    risen = () if one.loss is None else (f"loss {one.loss:+.3g}",)
    return (one.layer, f"{one.method}: {WORDS[one.method]}", f"metric {-one.drop:+.3g}", *risen)


def table(found: LayerSensitivity) -> Table:
    columns = (Column("Layer", "code"), Column("Method"), Column("Drop", "number"), Column("Loss", "number"))
    rows = tuple(
        (one.layer, f"{one.method}: {WORDS[one.method]}", significant(one.drop),
         "" if one.loss is None else f"{one.loss:+.3g}")
        for one in found.effects
    )  # fmt: skip
    return Table("What each method does to each layer by itself", columns, rows)


def text(found: LayerSensitivity) -> str:
    """Where it hurts most, and what is missing."""
    worst = max(found.effects, key=lambda one: (one.drop, one.loss or 0.0))
    left = f" For {plural(found.left, 'cell')} there was no time." if found.left else ""
    return (
        f"One layer changed at a time, on {plural(found.examples, 'validation example')}, without any recovery. Most "
        f"is lost by {worst.method} in {worst.layer}: {significant(worst.drop)}.{left}"
    )
