"""The channels of each layer before and after pruning: figure, table, words. Pure functions of the record."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.records import ChannelRecord
from lissom.report.plotting import (
    AFTER_COLOUR,
    BEFORE_COLOUR,
    Json,
    figure_of,
    hover_of,
    layer_rows,
    row_bars,
)
from lissom.report.tables import Column, Table
from lissom.report.units import plural

MANY = 40
"""Layers from which on the figure gets a frame to scroll in."""
Channels = Sequence[ChannelRecord]


def table(channels: Channels) -> Table:
    columns = (
        Column("Layer", "code"),
        Column("Operator", "code"),
        Column("Channels before", "number"),
        Column("Channels after", "number"),
        Column("Kept", "number"),
        Column("Inputs before", "number"),
        Column("Inputs after", "number"),
        Column("Same channels as"),
        Column("Why whole"),
    )
    rows = tuple(
        (
            one.layer,
            one.op,
            str(one.before),
            str(one.after),
            _share(one),
            "" if one.inputs_before is None else str(one.inputs_before),
            "" if one.inputs_after is None else str(one.inputs_after),
            ", ".join(one.coupled),
            one.reason,
        )
        for one in channels
    )
    return Table("Channels of each layer before and after pruning", columns, rows)


def summary(channels: Channels) -> str:
    """'9 of 21 layers are narrower: 412 of 688 output channels are left.'"""
    narrower = sum(one.after < one.before for one in channels)
    before, after = sum(one.before for one in channels), sum(one.after for one in channels)
    verb = "is" if narrower == 1 else "are"
    return (
        f"{narrower} of {plural(len(channels), 'layer')} {verb} narrower: {after:,} of {before:,} output channels are"
        " left."
    )


def description(channels: Channels) -> str:
    """The bars in words, for those who do not see them."""
    return f"Bars of the output channels of {plural(len(channels), 'layer')}. {summary(channels)} The table has all."


def height(channels: Channels) -> int:
    return 120 + 26 * len(channels)


def bars(channels: Channels) -> go.Figure:
    """One row a layer: a wide bar of what was there, a narrow one inside it of what is left."""
    rows = list(range(len(channels)))
    hovers = [_hover(one) for one in channels]
    most = max((one.before for one in channels), default=1)
    traces: list[Json] = [
        {
            **row_bars("before", rows, [one.before for one in channels], hovers, BEFORE_COLOUR),
            "width": 0.74,
            # of the bar alone: its label stays readable
            "marker": {"color": BEFORE_COLOUR, "opacity": 0.55},
            "text": [_label(one) for one in channels],
            "textposition": "outside",
            "cliponaxis": False,
        },
        {**row_bars("after", rows, [one.after for one in channels], hovers, AFTER_COLOUR), "width": 0.4},
    ]
    layout = layer_rows([one.layer for one in channels], 22, height(channels), 1.3 * most)
    return figure_of(traces, layout)


def _label(one: ChannelRecord) -> str:
    return str(one.before) if one.before == one.after else f"{one.before} → {one.after}"


def _share(one: ChannelRecord) -> str:
    return f"{one.after / one.before:.0%}" if one.before else ""


def _hover(one: ChannelRecord) -> str:
    lines = [f"{one.layer} ({one.op})", f"{one.before} channels before, {one.after} after ({_share(one)})"]
    if one.inputs_before is not None and one.inputs_after is not None:
        lines.append(f"inputs: {one.inputs_before} before, {one.inputs_after} after")
    if one.coupled:
        more = f" and {len(one.coupled) - 4} more" if len(one.coupled) > 4 else ""
        lines.append(f"same channels as {', '.join(one.coupled[:4])}{more}")
    if one.reason:
        lines.append(f"whole: {one.reason}")
    return hover_of(*lines)
