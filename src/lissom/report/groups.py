"""Channel groups of a model, and how much it suffers when one is cut: tables, figures, words. For page and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.graph.graph import ChannelGroup, Graph
from lissom.measure.records import CutEffect, GroupSensitivity, Sensitivity
from lissom.report.plotting import BLUE, GREY, Json, axis_of, figure_of, hover_of, safe, tail_of
from lissom.report.tables import Column, Table
from lissom.report.units import count_text, metric_value_text, percent_factor, plural

MANY = 40
"""Groups from which on a figure gets a frame to scroll in."""
NOISE = 1e-9
PATTERN: Json = {"fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.6, "size": 6}


@dataclass(frozen=True)
class Harm:
    """What a cut cost: `value` is above 0 where the model got worse, in points, metric units or loss."""

    value: float
    text: str
    """As a change: '-1.39' points of a metric, '+0.12' of a loss."""


def groups_table(graph: Graph) -> Table:
    """Groups that may be cut first, then the others; each in the order of the model."""
    columns = (
        Column("Group", "code"),
        Column("Channels", "number"),
        Column("MACs they carry", "number"),
        Column("Coupled layers"),
        Column("Left whole because"),
    )
    rows = tuple(
        (group.name, str(group.size), _macs_text(group, graph), ", ".join(group.layers), group.reason or "")
        for group in in_order(graph)
    )
    return Table("Channels that can only be cut together", columns, rows)


def in_order(graph: Graph) -> tuple[ChannelGroup, ...]:
    return tuple(sorted(graph.groups, key=lambda group: group.reason is not None))


def groups_text(graph: Graph) -> str:
    """'21 groups of channels; 18 of them, 1,456 channels, may be cut.'"""
    free = [group for group in graph.groups if group.reason is None]
    channels = plural(sum(group.size for group in free), "channel")
    return f"{plural(len(graph.groups), 'group')} of channels; {len(free)} of them, {channels}, may be cut."


def _macs_text(group: ChannelGroup, graph: Graph) -> str:
    share = f" ({group.macs / graph.macs:.0%})" if graph.macs else ""
    return f"{count_text(group.macs)}{share}"


def groups_height(graph: Graph) -> int:
    return 120 + 26 * len(graph.groups)


def groups_figure(graph: Graph) -> go.Figure:
    """MACs that depend on each group: what there is to win."""
    groups = in_order(graph)
    rows = {True: [i for i, g in enumerate(groups) if g.reason is None], False: []}
    rows[False] = [i for i in range(len(groups)) if i not in rows[True]]
    traces: list[Json] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": rows[free],
            "x": [groups[i].macs for i in rows[free]],
            "marker": {"color": colour, "pattern": {**PATTERN, "shape": hatch}},
            "hovertext": [_group_hover(groups[i], graph) for i in rows[free]],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for free, name, colour, hatch in ((True, "may be cut", BLUE, ""), (False, "left whole", GREY, "/"))
        if rows[free]
    ]
    layout: Json = {
        "height": groups_height(graph),
        "barmode": "overlay",
        "xaxis": axis_of("MACs that depend on the group", exponentformat="SI", rangemode="tozero"),
        "yaxis": _rows_axis([group.name for group in groups]),
    }
    return figure_of(traces, layout)


def _rows_axis(names: Sequence[str]) -> Json:
    # rows are numbered, not named: two long names may look alike
    labels: Json = {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [safe(tail_of(name.removesuffix(".weight"), 22)) for name in names],
        "showgrid": False,
    }
    return axis_of("", range=[len(names) - 0.5, -0.5], **labels)


def _group_hover(group: ChannelGroup, graph: Graph) -> str:
    lines = [
        f"{group.name}: {plural(group.size, 'channel')}",
        f"{_macs_text(group, graph)} MACs",
        _layers(group.layers),
    ]
    return hover_of(*lines, *([f"left whole: {group.reason}"] if group.reason else []))


def _layers(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - 5} more" if len(layers) > 5 else ""
    return f"layers: {', '.join(layers[:5])}{more}"


def harm(found: Sensitivity, effect: CutEffect) -> Harm:
    """The metric's drop where the task has one, else the loss's rise."""
    if found.metric is not None and effect.metric is not None:
        factor = percent_factor(found.metric_name or "", found.metric, effect.metric) or 1.0
        change = (effect.metric - found.metric) * factor
        return Harm(-change, _signed(change))
    change = (effect.loss or 0.0) - (found.loss or 0.0)
    return Harm(change, _signed(change))


def _signed(change: float) -> str:
    text = f"{change:+.2f}"
    return "0" if text in ("+0.00", "-0.00") else text


def _in_points(found: Sensitivity) -> bool:
    values = [effect.metric for group in found.groups for effect in group.effects if effect.metric is not None]
    if found.metric is None or found.metric_name is None:
        return False
    return percent_factor(found.metric_name, found.metric, *values) is not None


def change_title(found: Sensitivity) -> str:
    """'Change of accuracy, in points': what the figures of a cut are."""
    name = found.metric_name if found.metric is not None else "loss"
    return f"Change of {name}{', in points' if _in_points(found) else ''}"


def whole_text(found: Sensitivity) -> str:
    """'Uncut: accuracy 99.31%, loss 0.041, on 288 validation examples.'"""
    parts = []
    if found.metric is not None:
        parts.append(f"{found.metric_name} {metric_value_text(found.metric_name or '', found.metric)}")
    if found.loss is not None:
        parts.append(f"loss {found.loss:.4g}")
    return f"Uncut: {', '.join(parts)}, on {plural(found.examples, f'{found.split} example')}."


def sensitivity_table(found: Sensitivity) -> Table:
    columns = (
        Column("Group", "code"),
        Column("Channels", "number"),
        *(Column(f"{ratio:.0%} cut", "number") for ratio in found.ratios),
    )
    rows = tuple((one.group, str(one.size), *(_cell(found, effect) for effect in one.effects)) for one in found.groups)
    return Table(f"{change_title(found)}, when one group alone is cut", columns, rows)


def _cell(found: Sensitivity, effect: CutEffect) -> str:
    text = harm(found, effect).text
    if found.metric is None or effect.loss is None:
        return text
    return f"{text} (loss {effect.loss - (found.loss or 0.0):+.3g})"


def sensitivity_height(found: Sensitivity) -> int:
    return 130 + 28 * len(found.groups)


def sensitivity_figure(found: Sensitivity) -> go.Figure:
    """Groups by shares cut; the deeper the colour, the more the model suffers."""
    harms = [[harm(found, effect) for effect in one.effects] for one in found.groups]
    worst = max((one.value for row in harms for one in row), default=0.0)
    trace: Json = {
        "type": "heatmap",
        "x": [f"{ratio:.0%}" for ratio in found.ratios],
        "y": list(range(len(found.groups))),
        "z": [[max(0.0, one.value) for one in row] for row in harms],
        "zmin": 0.0,
        "zmax": max(worst, NOISE),
        # over the page's own background, so that the text stays readable on light and on dark
        "colorscale": [[0.0, "rgba(213,94,0,0.02)"], [1.0, "rgba(213,94,0,0.62)"]],
        "showscale": False,
        "xgap": 3,
        "ygap": 3,
        "text": [[one.text for one in row] for row in harms],
        "texttemplate": "%{text}",
        "hovertext": [[_effect_hover(found, one, effect) for effect in one.effects] for one in found.groups],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    layout: Json = {
        "height": sensitivity_height(found),
        "xaxis": axis_of("Share of the group's channels that is cut", type="category", side="top", showgrid=False),
        "yaxis": _rows_axis([one.group for one in found.groups]),
    }
    return figure_of([trace], layout)


def _effect_hover(found: Sensitivity, one: GroupSensitivity, effect: CutEffect) -> str:
    lines = [f"{one.group}: {effect.kept} of {one.size} channels kept"]
    if effect.metric is not None:
        name = found.metric_name or ""
        lines.append(f"{name} {metric_value_text(name, effect.metric)} ({harm(found, effect).text})")
    if effect.loss is not None:
        lines.append(f"loss {effect.loss:.4g} ({_signed(effect.loss - (found.loss or 0.0))})")
    if found.macs:
        lines.append(f"{1 - effect.macs / found.macs:.1%} fewer MACs in the whole model")
    return hover_of(*lines, _layers(one.layers))


def sensitivity_text(found: Sensitivity) -> str:
    """The heat map in words: which group suffers most and least at the largest share."""
    if not found.groups:
        return "No group of channels may be cut."
    last = [(harm(found, one.effects[-1]), one.group) for one in found.groups]
    most, least = max(last, key=lambda pair: pair[0].value), min(last, key=lambda pair: pair[0].value)
    unit = f" {'points of ' if _in_points(found) else ''}{found.metric_name if found.metric is not None else 'loss'}"
    return (
        f"With {found.ratios[-1]:.0%} of its channels cut, {most[1]} costs most ({most[0].text}{unit}) and {least[1]} "
        f"least ({least[0].text})."
    )
