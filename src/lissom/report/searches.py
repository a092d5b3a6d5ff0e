"""What a search tried: the front, the candidates, when each was tried; pure functions of the record."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.search_records import SearchRecord, SearchTrial
from lissom.report.plotting import BLUE, GREEN, GREY, PURPLE, VERMILION, Json, axis_of, figure_of, hover_of, safe
from lissom.report.tables import Column, Table
from lissom.report.units import bytes_text, ms_text, plural, ratio_interval_text, significant

HEIGHT, TIMELINE_HEIGHT = 420, 340
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)


def done(search: SearchRecord) -> list[SearchTrial]:
    return [t for t in search.trials if t.metric is not None and t.latency_ratio is not None]


def front(search: SearchRecord) -> go.Figure:
    """Metric against latency ratio, with the intervals of the latency; the front joined by a line."""
    tried = done(search)
    joined = sorted((t for t in tried if t.on_front), key=lambda t: t.latency_ratio or 0.0)
    groups = (
        ("tried", [t for t in tried if not t.on_front and not t.chosen], GREY, "circle-open"),
        ("on the front", [t for t in joined if not t.chosen], BLUE, "circle"),
        ("chosen", [t for t in tried if t.chosen], VERMILION, "star"),
    )
    traces: list[Json] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [t.latency_ratio for t in joined],
            "y": [t.metric for t in joined],
            "line": {"color": BLUE, "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
            "showlegend": False,
        },
        *(_points(name, trials, colour, symbol) for name, trials, colour, symbol in groups if trials),
    ]
    level: Json = {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": search.original_metric, "y1": search.original_metric,
        "line": {"color": GREY, "width": 1, "dash": "dash"},
    }  # fmt: skip
    layout: Json = {
        "height": HEIGHT,
        "xaxis": axis_of("Times faster than the original", rangemode="tozero"),
        "yaxis": axis_of("Metric on validation data"),
        "shapes": [level],
    }
    return figure_of(traces, layout)


def _points(name: str, trials: Sequence[SearchTrial], colour: str, symbol: str) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [t.latency_ratio for t in trials],
        "y": [t.metric for t in trials],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(t.latency_high or 0.0) - (t.latency_ratio or 0.0) for t in trials],
            "arrayminus": [(t.latency_ratio or 0.0) - (t.latency_low or 0.0) for t in trials],
            "color": colour,
            "thickness": 1,
        },
        "marker": {"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
        "text": [hover_of(*_lines(t)) for t in trials],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _lines(trial: SearchTrial) -> tuple[str, ...]:
    figures = f"{ms_text(trial.latency_ms)}, {bytes_text(trial.size_bytes)}, metric {significant(trial.metric or 0.0)}"
    return (f"candidate {trial.number}, by {trial.by}", trial.recipe, figures)


def timeline(search: SearchRecord) -> go.Figure:
    """A bar for every candidate, from when it was begun to when it was done."""
    names = list(dict.fromkeys(t.by for t in search.trials))
    traces: list[Json] = []
    for index, name in enumerate(names):
        own = [t for t in search.trials if t.by == name]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": safe(name),
                "base": [t.started for t in own],
                "x": [t.seconds for t in own],
                "y": [t.number for t in own],
                "marker": {"color": COLOURS[index % len(COLOURS)]},
                "hovertext": [hover_of(*_lines(t)) if t.metric is not None else hover_of(t.failure) for t in own],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )
    layout: Json = {
        "height": TIMELINE_HEIGHT,
        "barmode": "overlay",
        "xaxis": axis_of("Seconds since the first candidate", rangemode="tozero"),
        "yaxis": axis_of("Candidate", autorange="reversed"),
    }
    return figure_of(traces, layout)


def alone(search: SearchRecord) -> dict[tuple[str, int], SearchTrial]:
    """(dimension, place of the value) -> the candidate that differs from the original in this alone, where one is."""
    found: dict[tuple[str, int], SearchTrial] = {}
    for trial in done(search):
        changed = [name for name, values in search.space.items() if trial.point.get(name, values[0]) != values[0]]
        if len(changed) == 1 and trial.point[changed[0]] in search.space[changed[0]]:
            found.setdefault((changed[0], search.space[changed[0]].index(trial.point[changed[0]])), trial)
    return found


def effects(search: SearchRecord) -> go.Figure:
    """A heat map: what each value of each dimension does by itself to the metric; speed and size as text."""
    cells, rows = alone(search), [name for name, values in search.space.items() if len(values) > 1]
    width = max((len(search.space[name]) for name in rows), default=1)
    grid = [[cells.get((name, place)) for place in range(1, width)] for name in rows]
    trace: Json = {
        "type": "heatmap",
        "x": [str(place) for place in range(1, width)],
        "y": [safe(name) for name in rows],
        "z": [[None if t is None else search.original_metric - (t.metric or 0.0) for t in row] for row in grid],
        "text": [
            ["" if t is None else safe(f"{t.point[name]}: {significant(t.latency_ratio or 0.0)}x") for t in row]
            for name, row in zip(rows, grid, strict=True)
        ],
        "texttemplate": "%{text}",
        "customdata": [["" if t is None else hover_of(*_lines(t)) for t in row] for row in grid],
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": [[0.0, "rgba(213,94,0,0.02)"], [1.0, "rgba(213,94,0,0.62)"]],
        "colorbar": {"title": {"text": "drop"}, "thickness": 12},
        "xgap": 2,
        "ygap": 2,
    }
    layout: Json = {
        "height": effects_height(search),
        "xaxis": axis_of("Value, from the mildest on", type="category"),
        "yaxis": axis_of("", autorange="reversed"),
    }
    return figure_of([trace], layout)


def effects_height(search: SearchRecord) -> int:
    return 140 + 48 * sum(len(values) > 1 for values in search.space.values())


def effects_table(search: SearchRecord) -> Table:
    columns = ("Dimension", "Value", "Drop", "Faster", "Size")
    return Table(
        "What each value does by itself",
        tuple(Column(name, "text" if name in ("Dimension", "Value") else "number") for name in columns),
        tuple(
            (
                name,
                str(search.space[name][place]),
                significant(search.original_metric - (trial.metric or 0.0)),
                f"{significant(trial.latency_ratio or 0.0)}x",
                bytes_text(trial.size_bytes),
            )
            for (name, place), trial in sorted(alone(search).items())
        ),
        frozenset(),
    )


def trials(search: SearchRecord, *, only_front: bool = False) -> Table:
    """Every candidate, or the front and the choice; `flagged` are those that could not be made."""
    shown = [t for t in search.trials if not only_front or t.on_front or t.chosen]
    further = tuple(dict.fromkeys(name for t in search.trials for name in t.metrics))
    further += ("Worst class",) if any(t.worst_class is not None for t in search.trials) else ()
    columns = ("Candidate", "Recipe", "By", "Metric", *further, "Faster", "Size", "Seconds", "")
    numbers = {"Candidate", "Metric", *further, "Faster", "Size", "Seconds"}
    return Table(
        "The front of the search" if only_front else "Candidates of the search",
        tuple(Column(name, "number" if name in numbers else "text") for name in columns),
        tuple(_row(t, further) for t in shown),
        frozenset(index for index, t in enumerate(shown) if t.failure),
    )


def _row(trial: SearchTrial, further: Sequence[str]) -> tuple[str, ...]:
    start = (str(trial.number), trial.recipe, trial.by)
    note = trial.failure or ("chosen" if trial.chosen else "on the front" if trial.on_front else "")
    if trial.metric is None or trial.latency_ratio is None or not trial.size_bytes:
        return (*start, "", *("" for _ in further), "", "", f"{trial.seconds:.1f}", note)
    low, high = trial.latency_low or trial.latency_ratio, trial.latency_high or trial.latency_ratio
    faster = ratio_interval_text(trial.latency_ratio, low, high)
    shown = {**trial.metrics, "Worst class": trial.worst_class or 0.0}
    metrics = (f"{value:.4f}" for value in (trial.metric, *(shown[name] for name in further)))
    return (*start, *metrics, faster, bytes_text(trial.size_bytes), f"{trial.seconds:.1f}", note)


def text(search: SearchRecord) -> str:
    """The search in words."""
    made, failed = done(search), sum(bool(t.failure) for t in search.trials)
    budget = f" in a budget of {search.budget_seconds:g} s" if search.budget_seconds else ""
    source = f" from {plural(search.latency_layers, 'layer')}" if search.latency_layers else ""
    error = ""
    if search.latency_error is not None:
        error = f" Latency was foretold{source} to {search.latency_error:.0%} on average."
    lost = f" {plural(failed, 'candidate')} could not be made." if failed else ""
    return f"{search.searcher}: {plural(len(made), 'candidate')} measured{budget}.{lost}{error}"
