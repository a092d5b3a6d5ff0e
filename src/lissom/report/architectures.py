"""The search of a supernet and the subnet that it chose: figures, tables, words. Pure functions of the record."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.records import StepRecord
from lissom.measure.search_records import ArchitectureRecord, ShapeRecord, SubnetTrial
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
    layer_rows,
    row_bars,
    safe,
)
from lissom.report.tables import Column, Table
from lissom.report.units import count_text, metric_value_text, percent_factor, plural, significant

HEIGHT, ROW, TWO_LINES = 440, 28, 40
FLOAT = 32
"""Bits of a weight that is not rounded."""
MANY = 40
"""Layers from which on the drawing gets a frame to scroll in."""
WISHES = {
    "macs_ratio": "Times fewer MACs",
    "parameters_ratio": "Times fewer parameters",
    "latency_ratio": "Times faster on the target",
    "size_ratio": "Times smaller weights",
}
PROPOSERS = {"uniform": "every axis alike", "chance": "drawn at random (control)", "search": "found by the search"}


def searched(steps: Sequence[StepRecord]) -> tuple[tuple[int, StepRecord, ArchitectureRecord], ...]:
    """Steps that searched an architecture, with their numbers (from 1)."""
    return tuple((n, s, s.architecture) for n, s in enumerate(steps, start=1) if s.architecture)


def whole(record: ArchitectureRecord) -> SubnetTrial | None:
    """The network itself, with every choice at its largest."""
    return next((one for one in record.trials if not any(one.subnet)), None)


def chosen(record: ArchitectureRecord) -> SubnetTrial:
    return next(one for one in record.trials if one.chosen)


def by_chance(record: ArchitectureRecord) -> SubnetTrial | None:
    """The control: of the subnets drawn at random, the best within the wish."""
    within = [one for one in record.trials if one.by == "chance" and one.cost <= record.goal]
    return max(within, key=lambda one: (one.metric, -one.cost), default=None)


def _factor(record: ArchitectureRecord) -> float | None:
    return percent_factor(record.metric, *(one.metric for one in record.trials))


def front(record: ArchitectureRecord) -> go.Figure:
    """Metric against how many times less a subnet costs; the front joined by a line, the wish a dashed one."""
    factor, pick, origin = _factor(record) or 1.0, chosen(record), whole(record)
    joined = sorted((one for one in record.trials if one.on_front), key=lambda one: one.cost)
    plain = [one for one in record.trials if not one.chosen and one is not origin]
    groups = (
        (PROPOSERS["search"], [one for one in plain if one.by == "search"], GREY, "circle-open"),
        (PROPOSERS["uniform"], [one for one in plain if one.by == "uniform"], GREEN, "square-open"),
        (PROPOSERS["chance"], [one for one in plain if one.by == "chance"], PURPLE, "x"),
        ("whole network", [origin] if origin and not origin.chosen else [], BLUE, "diamond"),
        ("chosen", [pick], VERMILION, "star"),
    )
    traces: list[Json] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "front",
            "x": [1 / one.cost for one in joined],
            "y": [factor * one.metric for one in joined],
            "line": {"color": BLUE, "width": 1.5, "dash": "dot"},
            "hoverinfo": "skip",
        },
        *(_points(record, name, own, colour, symbol) for name, own, colour, symbol in groups if own),
    ]
    goal: Json = {
        "type": "line", "yref": "paper", "x0": 1 / record.goal, "x1": 1 / record.goal, "y0": 0, "y1": 1,
        "line": {"color": GREY, "width": 1, "dash": "dash"},
    }  # fmt: skip
    unit = "" if _factor(record) is None else ", %"
    layout: Json = {
        "height": HEIGHT,
        "xaxis": axis_of(WISHES.get(record.wish, safe(record.wish))),
        "yaxis": axis_of(safe(f"{record.metric}{unit}, validation")),
        "shapes": [goal],
    }
    return figure_of(traces, layout)


def _points(record: ArchitectureRecord, name: str, own: Sequence[SubnetTrial], colour: str, symbol: str) -> Json:
    factor = _factor(record) or 1.0
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [1 / one.cost for one in own],
        "y": [factor * one.metric for one in own],
        "marker": {
            "symbol": symbol,
            "size": 15 if symbol == "star" else 10,
            "color": colour,
            "line": {"width": 1.5, "color": colour},
        },
        "hovertext": [_hover(record, one) for one in own],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _hover(record: ArchitectureRecord, one: SubnetTrial) -> str:
    return hover_of(
        f"subnet {record.trials.index(one) + 1}, {PROPOSERS[one.by]}",
        f"{record.metric} {metric_value_text(record.metric, one.metric)}, {significant(1 / one.cost)}x",
        f"{count_text(one.macs)} MACs, {count_text(one.parameters)} parameters",
        f"reward {significant(one.reward)}",
    )


def text(record: ArchitectureRecord) -> str:
    """The search in words, with the whole network and the control."""
    pick, origin, control = chosen(record), whole(record), by_chance(record)
    drawn = sum(one.by == "chance" for one in record.trials)

    def said(one: SubnetTrial) -> str:
        return f"{metric_value_text(record.metric, one.metric)} at {significant(1 / one.cost)}x"

    against = "" if origin is None else f", the whole network {metric_value_text(record.metric, origin.metric)}"
    beside = (
        f"Of {plural(drawn, 'subnet')} drawn at random, the control, "
        + ("none is within the wish." if control is None else f"the best within the wish has {said(control)}.")
        if drawn
        else "None was drawn at random, so that there is no control: give more candidates."
    )
    subnets = "1 subnet" if record.subnets == "1" else f"{_many(record.subnets)} subnets"
    return (
        f"{plural(len(record.trials), 'candidate')} of {subnets}, wish {significant(1 / record.goal)}x. The chosen one "
        f"has {record.metric} {said(pick)}{against}, all with the supernet's weights on validation data."
        f"{_image(record)} {beside}"
    )


def _image(record: ArchitectureRecord) -> str:
    sizes = [(one.chosen, one.choices[0]) for one in record.axes if one.axis == "resolution"]
    return "".join(f" It reads images {chosen} pixels high, of {whole}." for chosen, whole in sizes)


def _many(count: str) -> str:
    return f"{int(count):,}" if len(count) < 10 else f"{count[0]}.{count[1]}e{len(count) - 1}"


def trials(record: ArchitectureRecord) -> Table:
    columns = ("Subnet", "By", "Metric", "Times less", "MACs", "Parameters", "Reward", "")
    words = {"By", ""}
    return Table(
        "Subnets that were looked at",
        tuple(Column(name, "text" if name in words else "number") for name in columns),
        tuple(
            (
                str(at),
                PROPOSERS[one.by],
                metric_value_text(record.metric, one.metric),
                f"{significant(1 / one.cost)}x",
                count_text(one.macs),
                count_text(one.parameters),
                significant(one.reward),
                _note(one),
            )
            for at, one in enumerate(record.trials, start=1)
        ),
    )


def _note(one: SubnetTrial) -> str:
    marks = {"chosen": one.chosen, "whole network": not any(one.subnet), "on the front": one.on_front}
    return ", ".join(name for name, holds in marks.items() if holds)


def height(layers: Sequence[ShapeRecord]) -> int:
    return 130 + (TWO_LINES if _rounded(layers) else ROW) * len(layers)


def _rounded(layers: Sequence[ShapeRecord]) -> bool:
    return any(one.bits is not None for one in layers)


def drawing(layers: Sequence[ShapeRecord]) -> go.Figure:
    """One row a layer: a wide bar of the whole network's channels, inside it the subnet's; kernels and gaps as text."""
    rows = list(range(len(layers)))
    most = max((one.before for one in layers), default=1)
    hovers = [hover_of(f"{one.layer} ({one.op})", _words(one)) for one in layers]
    kept = [at for at in rows if layers[at].after]
    gone = [at for at in rows if not layers[at].after]
    traces: list[Json] = [
        {
            **row_bars(
                "whole network", kept, [layers[at].before for at in kept], [hovers[at] for at in kept], BEFORE_COLOUR
            ),
            "width": 0.74,
            "marker": {"color": BEFORE_COLOUR, "opacity": 0.55},
            "text": [_label(layers[at]) for at in kept],
            "textposition": "outside",
            "cliponaxis": False,
        },
        {
            **row_bars(
                "chosen subnet", kept, [layers[at].after for at in kept], [hovers[at] for at in kept], AFTER_COLOUR
            ),
            "width": 0.4,
        },
    ]
    if gone:
        traces.append(
            {
                **row_bars(
                    "left out", gone, [layers[at].before for at in gone], [hovers[at] for at in gone], VERMILION
                ),
                "width": 0.74,
                "marker": {
                    "color": "rgba(213,94,0,0.12)",
                    "line": {"color": VERMILION, "width": 1},
                    "pattern": {"shape": "/", "fgcolor": VERMILION, "size": 6},
                },
                "text": ["left out"] * len(gone),
                "textposition": "outside",
                "cliponaxis": False,
            }
        )
    layout = layer_rows([one.layer for one in layers], 20, height(layers), 2.2 * most)
    return figure_of(traces, layout)


def _arrow(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _label(one: ShapeRecord) -> str:
    """`64 → 32, 5² → 3²`, with bits on a second line: a phone is narrow. Kernels of one place are not worth a word."""
    kernel = one.kernel_before is not None and one.kernel_before > 1
    sides = [_arrow(f"{one.kernel_before}²", f"{one.kernel_after}²")] if kernel else []
    channels, bits = _arrow(one.before, one.after), _bits(one)
    return f"{channels}<br>{', '.join((*sides, *bits))}" if bits else ", ".join((channels, *sides))


def _bits(one: ShapeRecord) -> list[str]:
    if one.bits is None:
        return []
    return ["float" if one.bits == FLOAT else f"int{one.bits}"]


def _words(one: ShapeRecord) -> str:
    if not one.after:
        return f"{one.before} channels, left out"
    kernel = "" if one.kernel_before is None else f", kernel {_arrow(one.kernel_before, one.kernel_after)}"
    return ", ".join((f"channels {_arrow(one.before, one.after)}{kernel}", *_bits(one)))


def layers(record: ArchitectureRecord) -> Table:
    columns = ("Layer", "Operator", "Channels", "In the subnet", "Kernel", "In the subnet", "Weights")
    return Table(
        "The chosen subnet beside the whole network",
        tuple(Column(name, "code" if at in (0, 1, 6) else "number") for at, name in enumerate(columns)),
        tuple(
            (
                one.layer,
                one.op,
                str(one.before),
                str(one.after) if one.after else "left out",
                "" if one.kernel_before is None else str(one.kernel_before),
                "" if one.kernel_after is None else str(one.kernel_after),
                *(_bits(one) or [""]),
            )
            for one in record.layers
        ),
    )


def description(record: ArchitectureRecord) -> str:
    """The drawing in words, for those who do not see it."""
    narrower = sum(0 < one.after < one.before for one in record.layers)
    gone = sum(not one.after for one in record.layers)
    smaller = sum(one.kernel_after != one.kernel_before for one in record.layers if one.after)
    return (
        f"Of {plural(len(record.layers), 'layer')}, {narrower} are narrower, {smaller} have a smaller kernel, {gone} "
        "are left out. The table has all."
    )
