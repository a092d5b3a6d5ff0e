"""What was made up where there were no data: pictures, signs and losses on the way, which steps read it.

Pure functions of the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom.measure.records import RunRecord
from lissom.measure.synthesis import SynthesisPoint, SynthesisRecord
from lissom.report.plotting import BLUE, GREEN, GREY, PURPLE, VERMILION, Json, axis_of, figure_of, hover_of, safe
from lissom.report.tables import Column, Table
from lissom.report.units import MISSING, plural, significant

HEIGHT = 320
GAP = 0.06
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, GREY)
SHARES = {
    "confidence": "teacher's confidence",
    "balance": "balance of classes",
    "agreement": "agreement",
    "entropy": "entropy",
}
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Synthesis:
    """One synthesis of a run, as the template shows it."""

    title: str
    text: str
    sheet: str | None
    """A picture that is safe to show: nothing else is taken for one."""
    alt: str
    record: SynthesisRecord
    moment: str


def syntheses(run: RunRecord) -> tuple[Synthesis, ...]:
    """That of the whole run first, then those of its steps."""
    return tuple(_view(title, record, moment) for title, record, moment in _all(run))


def _all(run: RunRecord) -> Iterator[tuple[str, SynthesisRecord, str]]:
    if run.synthesis:
        yield "Data for the whole run", run.synthesis, "Moment"
    for number, step in enumerate(run.steps, start=1):
        if step.synthesis:
            yield f"Step {number}, {step.transform}: inputs of the training", step.synthesis, "Epoch"


def _view(title: str, record: SynthesisRecord, moment: str) -> Synthesis:
    sheet = record.sheet if record.sheet and PICTURE.fullmatch(record.sheet) else None
    return Synthesis(title, " ".join(_sentences(record)), sheet, _alt(record), record, moment)


def _sentences(record: SynthesisRecord) -> Iterator[str]:
    signs, splits = record.signs, ", ".join(record.splits)
    yield f"{record.examples:,} inputs made up by {record.settings.get('method', 'an unknown method')}, for: {splits}."
    if signs.confidence is not None and signs.balance is not None:
        yield (
            f"The teacher finds one class {signs.confidence:.0%} likely in the mean, and its classes are balanced to "
            f"{signs.balance:.2f} (1: all equally often)."
        )
    yield f"Two of them are {significant(signs.spread)} times the size of one apart (1.41: independent)."
    yield (
        f"Statistics of {plural(signs.normalizations, 'batch normalization')} were at hand."
        if signs.normalizations
        else "No batch normalization told what real data look like."
    )
    last = record.history[-1] if record.history else None
    if last is not None and last.agreement is not None and last.entropy is not None:
        yield (
            f"On inputs held out, the student finds the teacher's class likeliest in {last.agreement:.1%}, with an "
            f"entropy of {last.entropy:.2f} (1: no idea)."
        )
    yield (
        f"They have collapsed: {signs.collapsed}. Do not trust what was learned or measured on them."
        if signs.collapsed
        else "Nothing says that they have collapsed."
    )


def _alt(record: SynthesisRecord) -> str:
    classes = ", ".join(str(one) for one in record.sheet_classes)
    seen = f" Likeliest classes, in rows from the left: {classes}." if classes else ""
    return f"Some of the made up images, side by side.{seen}"


def curves(record: SynthesisRecord, moment: str) -> go.Figure:
    """Losses of the synthesizer; beside them what the teacher, and the student if there is one, make of its inputs."""
    points = record.history
    names = list(dict.fromkeys(name for point in points for name in point.losses))
    shown = [name for name in SHARES if any(getattr(point, name) is not None for point in points)]
    traces = [
        _trace(points, [point.losses.get(name) for point in points], name, COLOURS[index % len(COLOURS)], "", index)
        for index, name in enumerate(names)
    ]
    ticks: Json = {"range": [0.5, len(points) + 0.5], "tickformat": "d"}
    ticks |= {"dtick": 1} if len(points) <= 10 else {}
    layout: Json = {
        "height": HEIGHT,
        "xaxis": axis_of(moment, domain=[0, 0.5 - GAP if shown else 1], **ticks),
        "yaxis": axis_of("Loss, unweighted"),
    }
    if shown:
        traces += [
            _trace(points, [getattr(point, name) for point in points], SHARES[name], COLOURS[index], "2", index)
            for index, name in enumerate(shown)
        ]
        layout |= {
            "xaxis2": axis_of(moment, domain=[0.5 + GAP, 1], anchor="y2", **ticks),
            "yaxis2": axis_of("Share", anchor="x2", range=[-0.02, 1.02]),
        }
    return figure_of(traces, layout, top=48)


def _trace(
    points: Sequence[SynthesisPoint],
    values: Sequence[float | None],
    name: str,
    colour: str,
    panel: str,
    index: int,
) -> Json:
    symbols = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": safe(name),
        "x": [number + 1 for number in range(len(points))],
        "y": list(values),
        "xaxis": f"x{panel}",
        "yaxis": f"y{panel}",
        "line": {"color": colour, "width": 1.5, "dash": "dot" if panel else "solid"},
        "marker": {"color": colour, "size": 7, "symbol": symbols[index % len(symbols)]},
        "hovertext": [hover_of(f"{name} {significant(value, 4)}") if value is not None else "" for value in values],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def description(record: SynthesisRecord) -> str:
    """The curves in words, for those who do not see them."""
    first, last = record.history[0], record.history[-1]
    parts = [
        f"{name} from {significant(value)} to {significant(last.losses.get(name, value))}"
        for name, value in first.losses.items()
    ]
    return f"Lines over {plural(len(record.history), 'moment')}: {', '.join(parts)}. The table has all."


def table(record: SynthesisRecord, moment: str) -> Table:
    names = list(dict.fromkeys(name for point in record.history for name in point.losses))
    columns = (
        Column(moment),
        *(Column(name, "number") for name in names),
        *(Column(title, "number") for title in (*SHARES.values(), "spread")),
        Column("collapsed"),
    )
    rows = tuple(
        (
            str(number),
            *(_number(point.losses.get(name)) for name in names),
            *(_number(getattr(point, name)) for name in SHARES),
            _number(point.spread),
            point.collapsed or "no",
        )
        for number, point in enumerate(record.history, start=1)
    )
    return Table("Made up inputs that were held out, on the way", columns, rows)


def _number(value: float | None) -> str:
    return MISSING if value is None else significant(value)


def readers(run: RunRecord) -> Table | None:
    """Which data each step read; None where all of them are the task's."""
    if not run.synthesis and not any(step.made_up for step in run.steps):
        return None
    rows = tuple(
        (f"{number}. {step.title or step.transform}", ", ".join(step.made_up) or "none")
        for number, step in enumerate(run.steps, start=1)
    )
    return Table("Which steps read made up data", (Column("Step"), Column("Made up splits that it read")), rows)
