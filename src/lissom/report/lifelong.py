"""The page of a lifelong folder: tasks, bits of each, what was forgotten. One file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plotly import graph_objects as go  # pyright: ignore[reportMissingTypeStubs]

from lissom._version import __version__
from lissom.measure.lifelong import LifelongRecord, Split, TaskProof, TaskRecord
from lissom.report.page import Figure, Section, filled, json_of, write_page
from lissom.report.plotting import BLUE, VERMILION, Json, axis_of, figure_of, hover_of, safe, tail_of
from lissom.report.tables import Column, Table
from lissom.report.units import (
    MISSING,
    bytes_text,
    count_text,
    metric_text,
    metric_value_text,
    percent_factor,
    plural,
    seconds_text,
    significant,
)


def render(record: LifelongRecord, name: str) -> str:
    """The page of one folder."""
    splits = splits_of(record)
    sections = (
        ("tasks", "Tasks", True),
        ("bits", "Bits on disk", bool(record.tasks)),
        ("forgetting", "What was forgotten", bool(splits)),
        ("attempts", "Attempts", any(len(task.attempts) > 1 for task in record.tasks)),
        ("notes", "Notes", any(task.notes for task in record.tasks)),
    )
    return filled(
        "lifelong.html.j2",
        title=name,
        lissom=__version__,
        facts=_facts(record),
        sections=tuple(Section(kind, title) for kind, title, present in sections if present),
        tasks_table=tasks_table(record),
        bits_figure=_bits(record),
        matrices=[_matrix(record, split) for split in splits],
        summaries=[forgetting_text(record, split) for split in splits],
        attempts_table=attempts_table(record),
        notes=[f"{task.name}: {note}" for task in record.tasks for note in task.notes],
    )


def write(record: LifelongRecord, name: str, path: Path) -> Path:
    """Render to `path`.

    Raises:
        RunFolderError: the file cannot be written.
    """
    return write_page(render(record, name), path)


def tasks_table(record: LifelongRecord) -> Table:
    columns = (
        Column("Task", "code"),
        Column("Method"),
        Column("Metric (validation)", "number"),
        Column("Classes", "number"),
        Column("Width", "number"),
        Column("Weights kept", "number"),
        Column("Weights used", "number"),
        Column("Bits per weight", "number"),
        Column("Of these, masks", "number"),
        Column("Time", "number"),
    )
    rows = tuple(_task_row(task) for task in record.tasks)
    flagged = frozenset(i for i, task in enumerate(record.tasks) if task.goal_met is False)
    return Table("Tasks in the order they were added", columns, rows, flagged)


def _task_row(task: TaskRecord) -> tuple[str, ...]:
    masks = task.family == "masks"
    return (
        task.name,
        task.method,
        metric_text(task.metric),
        str(task.classes),
        f"{task.width:g}",
        f"{task.own / task.weights:.1%}" if masks else "all, shared",
        f"{task.used / task.weights:.1%}",
        f"{task.added_bits:.3f}",
        f"{task.mask_bits:.3f}" if masks else MISSING,
        seconds_text(task.seconds),
    )


def attempts_table(record: LifelongRecord) -> Table:
    columns = (
        Column("Task", "code"),
        Column("Width", "number"),
        Column("Share", "number"),
        Column("All free weights trained", "number"),
        Column("Kept weights alone", "number"),
        Column("Goal", "number"),
    )
    rows = tuple(
        (
            task.name,
            f"{one.width:g}",
            f"{one.share:.2%}",
            metric_value_text(_metric_name(record), one.trained),
            metric_value_text(_metric_name(record), one.kept),
            metric_value_text(_metric_name(record), task.goal),
        )
        for task in record.tasks
        for one in task.attempts
    )
    return Table("Widths and shares that were tried", columns, rows)


def matrix_table(record: LifelongRecord, split: Split) -> Table:
    """Rows by the task that was just added, columns by task."""
    matrix = record.matrix(split)
    names = [task.name for task in record.tasks]
    columns = (Column("After adding", "code"), *(Column(name, "number") for name in names))
    metric = _metric_name(record)
    rows = tuple(
        (after, *("" if name not in row else metric_value_text(metric, row[name]) for name in names))
        for after, row in matrix.items()
    )
    return Table(f"Metric of each task on the {split} split", columns, rows)


def proof_table(tasks: Sequence[TaskProof]) -> Table:
    columns = (
        Column("Task", "code"),
        Column("Weights"),
        Column("Outputs on the probes"),
        Column("Largest difference", "number"),
        Column("Machine"),
        Column("Proof"),
    )
    rows = tuple(
        (
            task.name,
            "the same bits" if task.weights_same else "changed",
            "the same bits" if task.outputs_same else "changed",
            f"{task.difference:.1e}" if task.difference else "0",
            "the same" if task.same_machine else "another",
            "holds" if task.held else "does not hold",
        )
        for task in tasks
    )
    flagged = frozenset(i for i, task in enumerate(tasks) if not task.held)
    return Table("Tasks beside what they were when they were added", columns, rows, flagged)


def forgetting_text(record: LifelongRecord, split: Split) -> str:
    """'Backward transfer on the test split: 0 points.', and how often the task was inferred rightly."""
    transfer = record.backward_transfer(split)
    said = f"Backward transfer on the {split} split: {_points(record, transfer)}."
    rows = [row for row in record.rows if row.split == split and row.identified is not None]
    if rows and rows[-1].identified is not None and rows[-1].identified_together is not None:
        last = rows[-1]
        said += (
            f" The task was inferred rightly for {last.identified:.1%} of single examples and for "
            f"{last.identified_together:.1%} of batches, among {plural(len(last.metrics), 'task')}."
        )
    return said


def _points(record: LifelongRecord, change: float | None) -> str:
    if change is None:
        return "not known, because not every task was measured after the last one was added"
    factor = percent_factor(_metric_name(record), 1.0)
    if change == 0:
        return "exactly 0"
    return f"{change * factor:+.2f} points" if factor else f"{change:+.4g}"


def _metric_name(record: LifelongRecord) -> str:
    named = [metric.name for row in record.rows for metric in row.metrics.values()]
    return next(iter([task.metric.name for task in record.tasks if task.metric] + named), "")


def splits_of(record: LifelongRecord) -> tuple[Split, ...]:
    """Splits that some task was measured on."""
    measured = {row.split for row in record.rows}
    known: tuple[Split, ...] = ("validation", "test")
    return tuple(
        split for split in known if split in measured or (split == "validation" and any(t.metric for t in record.tasks))
    )


def _facts(record: LifelongRecord) -> tuple[tuple[str, str], ...]:
    last = record.tasks[-1] if record.tasks else None
    return (
        ("Tasks", str(len(record.tasks))),
        ("Shared weights", f"{count_text(last.weights)} of {record.backbone.bits} bits" if last else "none yet"),
        ("Free", f"{record.free:.1%}" if last and last.family == "masks" else MISSING),
        ("On disk", bytes_text(record.bytes_on_disk)),
        ("As models of their own", bytes_text(record.alone_bytes)),
    )


def _bits(record: LifelongRecord) -> Figure:
    tasks = record.tasks
    most = max((task.added_bits for task in tasks), default=0.0)
    return Figure(
        title="Bits that each task adds, per shared weight",
        caption="Masks; and what is the task's own: head, biases, normalizations, scales. The values of the weights "
        "that it keeps lie in the room that the backbone has for them.",
        description=f"Stacked bars of {plural(len(tasks), 'task')}. At most {significant(most)} bits a weight.",
        json=json_of(bits_figure(tasks)),
        height=120 + 26 * len(tasks),
        table=tasks_table(record),
    )


def bits_figure(tasks: Sequence[TaskRecord]) -> go.Figure:
    traces: list[Json] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": list(range(len(tasks))),
            "x": values,
            "marker": {"color": colour},
            "hovertext": [hover_of(f"{t.name}: {v:.3f} bits", name) for t, v in zip(tasks, values, strict=True)],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
        for name, colour, values in (
            ("masks", BLUE, [task.mask_bits for task in tasks]),
            ("its own", VERMILION, [task.added_bits - task.mask_bits for task in tasks]),
        )
    ]
    layout: Json = {
        "height": 120 + 26 * len(tasks),
        "barmode": "stack",
        "xaxis": axis_of("Bits per shared weight", rangemode="tozero"),
        "yaxis": _names_axis(tasks),
    }
    return figure_of(traces, layout)


def _matrix(record: LifelongRecord, split: Split) -> Figure:
    return Figure(
        title=f"Metric of each task on the {split} split, after each addition",
        caption="Rows: the task that was just added. The deeper the colour, the more a task lost since it was added.",
        description=f"Heat map of {plural(len(record.tasks), 'task')}. {forgetting_text(record, split)}",
        json=json_of(matrix_figure(record, split)),
        height=130 + 28 * len(record.tasks),
        table=matrix_table(record, split),
        wide=len(record.tasks) > 12,
    )


def matrix_figure(record: LifelongRecord, split: Split) -> go.Figure:
    """Rows by the task that was just added, columns by task; the colour is what was lost since."""
    matrix = record.matrix(split)
    names = [task.name for task in record.tasks]
    metric = _metric_name(record)
    lost: list[list[float | None]] = []
    shown: list[list[str]] = []
    for row in matrix.values():
        cells = [row.get(name) for name in names]
        first = [matrix[name][name] for name in names]
        lost.append([None if c is None or f is None else max(0.0, f - c) for c, f in zip(cells, first, strict=True)])
        shown.append(["" if cell is None else metric_value_text(metric, cell) for cell in cells])
    worst = max((cell for row in lost for cell in row if cell is not None), default=0.0)
    trace: Json = {
        "type": "heatmap",
        "x": list(range(len(names))),
        "y": list(range(len(names))),
        "z": lost,
        "zmin": 0.0,
        "zmax": max(worst, 0.01),
        "colorscale": [[0.0, "rgba(213,94,0,0.02)"], [1.0, "rgba(213,94,0,0.62)"]],
        "showscale": False,
        "xgap": 3,
        "ygap": 3,
        "text": shown,
        "texttemplate": "%{text}",
        "hovertext": [
            [hover_of(f"{name} after {after}: {text or 'not measured'}") for name, text in zip(names, row, strict=True)]
            for after, row in zip(matrix, shown, strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    layout: Json = {
        "height": 130 + 28 * len(names),
        "xaxis": {**_names_axis(record.tasks), "range": [-0.5, len(names) - 0.5], "side": "top"},
        "yaxis": _names_axis(record.tasks),
    }
    return figure_of([trace], layout)


def _names_axis(tasks: Sequence[TaskRecord]) -> Json:
    labels: Json = {
        "tickmode": "array",
        "tickvals": list(range(len(tasks))),
        "ticktext": [safe(tail_of(task.name, 22)) for task in tasks],
        "showgrid": False,
    }
    return axis_of("", range=[len(tasks) - 0.5, -0.5], **labels)
