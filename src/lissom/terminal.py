"""What the command line shows: rich tables of graphs, plans, runs, runtimes."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from lissom.console import plain_console
from lissom.export.base import Availability
from lissom.graph.graph import Graph, Shape
from lissom.measure.lifelong import LifelongRecord, TaskProof, TaskRecord
from lissom.measure.records import RunRecord, Saturation, Sensitivity
from lissom.measure.synthesis import SynthesisRecord
from lissom.pipeline import Foresight, Remeasured
from lissom.pipeline.recording import done_text
from lissom.report import groups, lifelong, saturation, searches, tables
from lissom.report.headline import summary
from lissom.report.units import bytes_text, count_text, interval_text, metric_text, ratio_interval_text, ratio_text
from lissom.target import Target
from lissom.transforms.quantization import layer_bits


def _table(title: str, *columns: str) -> RichTable:
    table = RichTable(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def rich_table(table: tables.Table) -> RichTable:
    """A table of the report, for the terminal."""
    shown = RichTable(title=table.caption, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in table.columns:
        shown.add_column(column.name, justify="right" if column.kind == "number" else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _shape(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape)


def show_graph(graph: Graph, name: str) -> None:
    console = plain_console()
    table = _table(f"{name}: layers", "layer", "operator", "output", "MACs", "parameters", "bytes")
    for layer in graph.layers:
        table.add_row(
            layer.name,
            layer.op,
            _shape(layer.output_shape),
            count_text(layer.macs),
            count_text(layer.parameters),
            bytes_text(layer.bytes),
        )
    console.print(table)
    batch = "any batch size" if graph.dynamic_batch else f"batches of {graph.fixed_batch} only"
    console.print(
        f"\n{len(graph.layers)} layers, {count_text(graph.macs)} MACs an example, {count_text(graph.parameters)} "
        f"parameters, {bytes_text(graph.bytes)}, {batch}."
    )
    if graph.uncounted:
        console.print(f"Cost not counted for: {', '.join(sorted(graph.uncounted))}.")


def show_groups(graph: Graph) -> None:
    console = plain_console()
    console.print()
    console.print(rich_table(groups.groups_table(graph)))
    console.print(f"\n{groups.groups_text(graph)}")


def show_task(task: TaskRecord) -> None:
    """What adding a task came to."""
    console = plain_console()
    metric = f", {task.metric.name} {metric_text(task.metric)} on {task.metric.split}" if task.metric else ""
    console.print(f"Added {task.name} ({task.method}): {task.seconds:.0f} s{metric}.")
    if task.family == "masks":
        console.print(
            f"It keeps {task.own / task.weights:.1%} of {count_text(task.weights)} shared weights and uses "
            f"{task.used / task.weights:.1%}; {task.free / task.weights:.1%} are free. It adds "
            f"{task.added_bits:.2f} bits "
            f"per weight, {task.mask_bits:.2f} of them masks."
        )
    for note in task.notes:
        console.print(note)


def show_lifelong(record: LifelongRecord) -> None:
    """Tasks, then the forgetting matrix of each split that was measured."""
    console = plain_console()
    console.print(rich_table(lifelong.tasks_table(record)))
    for split in lifelong.splits_of(record):
        console.print()
        console.print(rich_table(lifelong.matrix_table(record, split)))
        console.print(f"\n{lifelong.forgetting_text(record, split)}")


def show_proof(tasks: Sequence[TaskProof]) -> None:
    plain_console().print(rich_table(lifelong.proof_table(tasks)))


SPARKS = " ▁▂▃▄▅▆▇█"
"""From no harm to the worst of the table."""


def show_sensitivity(found: Sensitivity) -> None:
    """A row a group: a spark line over the shares cut, and the figures."""
    console = plain_console()
    table = _table(f"{groups.change_title(found)}, when one group alone is cut", "group", "channels", "picture")
    for ratio in found.ratios:
        table.add_column(f"{ratio:.0%} cut", justify="right")
    harms = {one.group: [groups.harm(found, effect) for effect in one.effects] for one in found.groups}
    worst = max((one.value for row in harms.values() for one in row), default=0.0)
    drawn = console.encoding.lower().startswith("utf")
    for one in found.groups:
        row = harms[one.group]
        spark = "".join(_spark(harm.value, worst) for harm in row) if drawn else ""
        table.add_row(one.group, str(one.size), spark, *(harm.text for harm in row))
    console.print()
    console.print(table)
    console.print(f"\n{groups.whole_text(found)} {groups.sensitivity_text(found)}")
    console.print(f"Least important channels by {found.criterion}; nothing fitted again, nothing trained.")


def show_saturation(found: Saturation) -> None:
    """Rounded values, then integer products."""
    console = plain_console()
    for one in (saturation.values_table(found), saturation.layers_table(found)):
        table = _table(one.caption, *(column.name for column in one.columns))
        for row in one.rows:
            table.add_row(*row)
        console.print()
        console.print(table)
    console.print(f"\n{saturation.saturation_text(found)}")
    for note in found.notes:
        console.print(note)


def _spark(harm: float, worst: float) -> str:
    share = max(0.0, harm) / worst if worst > 0 else 0.0
    return SPARKS[math.ceil(share * (len(SPARKS) - 1) - 1e-9)]


def collapse_of(made: SynthesisRecord | None) -> tuple[str, ...]:
    """A warning where made up inputs should not be trusted."""
    reason = made.signs.collapsed if made else None
    return (f"The made up inputs have collapsed: {reason}. Do not trust this plan.",) if reason else ()


def show_plans(graph: Graph, steps: Sequence[Foresight], target: Target, remarks: Sequence[str] = ()) -> None:
    """`remarks`: what the reader must know about the data."""
    console = plain_console()
    console.print(f"Target: {target.title}\n")
    for one in remarks:
        console.print(f"Data: {one}\n")
    for step in steps:
        plan, cost = step.plan, step.plan.predicted
        console.print(Text.assemble((plan.transform, "bold"), f": {done_text(plan)}; {len(plan.skipped)} skipped"))
        console.print(
            f"  then {count_text(cost.macs)} MACs, {count_text(cost.parameters)} parameters, {bytes_text(cost.bytes)} "
            f"(original: {count_text(graph.macs)} MACs, {count_text(graph.parameters)} parameters, "
            f"{bytes_text(graph.bytes)})"
        )
        narrower = [one for one in step.channels if one.after < one.before or one.inputs_after != one.inputs_before]
        if narrower:
            table = _table("", "layer", "operator", "channels", "", "inputs", "")
            for one in narrower:
                table.add_row(
                    one.layer,
                    one.op,
                    *_arrow(one.before, one.after),
                    *_arrow(one.inputs_before, one.inputs_after),
                )
            console.print(table)
        if bits := layer_bits(plan):
            table = _table("", "layer", "weights", "computes in")
            for row in bits:
                table.add_row(row[0], *row[1:])
            console.print(table)
        if plan.skipped:
            table = _table("", "skipped", "why")
            table.columns[1].justify = "left"
            for skip in plan.skipped:
                table.add_row(skip.layer, skip.reason)
            console.print(table)
        if step.outlook:
            console.print()
            console.print(_outlook_table(step))
        console.print()


def _arrow(before: int | None, after: int | None) -> tuple[str, str]:
    if before is None or after is None:
        return "", ""
    return (str(before), "") if before == after else (f"{before} -> {after}", f"{after / before:.0%}")


def _outlook_table(step: Foresight) -> RichTable:
    title = "What other shares would cost and save: left, before / after, share of importance left"
    table = _table(title, "cut", step.outlook[0].units, "MACs", "parameters", "size", "importance")
    for one in step.outlook:
        table.add_row(
            "this recipe" if one.ratio is None else f"{one.ratio:.0%}",
            f"{one.units_after} of {one.units_before}",
            f"{count_text(one.cost.macs)} ({ratio_text(one.macs_ratio)})",
            ratio_text(one.parameters_ratio),
            f"{bytes_text(one.cost.bytes)} ({ratio_text(one.size_ratio)})",
            "not a share" if one.importance is None else f"{one.importance:.1%}",
            style="bold" if one.ratio is None else None,
        )
    return table


def show_run(record: RunRecord, folder: Path, report: Path) -> None:
    console = plain_console()
    console.print("")
    console.print(record.name, style="bold", end=" ")
    console.print(f"on {record.target}: {summary(record)}\n")
    console.print(rich_table(tables.before_after(record)))
    if record.goal:
        console.print()
        console.print(rich_table(tables.goals(record)))
    if record.trials:
        console.print()
        console.print(rich_table(tables.trials(record)))
    if record.search:
        console.print()
        console.print(rich_table(searches.trials(record.search, only_front=True)))
        for sentence in (searches.text(record.search), *record.search.explanation):
            console.print(f"\n{sentence}")
    if text := tables.precisions_text(record):
        console.print(f"\n{text}")
    for note in (*record.notes, *tables.reasons(record)):
        console.print(f"\nNote: {note}")
    console.print(f"\nRun folder: {folder}\nReport:     {report}", soft_wrap=True)


def show_measured(rows: Sequence[Remeasured]) -> None:
    table = _table(
        "Measured now, interleaved", "run", "model", "target", "batch", "latency", "size", "against its original"
    )
    for row in rows:
        faster = ratio_interval_text(row.faster.median, row.faster.low, row.faster.high) if row.faster else ""
        table.add_row(
            row.run,
            row.model,
            row.target,
            str(row.batch_size),
            interval_text(row.latency_ms),
            bytes_text(row.size_bytes),
            faster,
        )
    plain_console().print(table)


def measured_rows(rows: Sequence[Remeasured]) -> list[dict[str, object]]:
    return [
        {
            "run": row.run,
            "model": row.model,
            "target": row.target,
            "batch_size": row.batch_size,
            "latency_ms": row.latency_ms.model_dump(mode="json"),
            "size_bytes": row.size_bytes,
            "faster": row.faster.model_dump(mode="json") if row.faster else None,
        }
        for row in rows
    ]


def show_targets(found: Mapping[str, tuple[Target, Availability]]) -> None:
    table = _table("Runtimes", "target", "found", "integer operators", "dynamic", "to install")
    for column in table.columns:
        column.justify = "left"
    for name, (target, here) in found.items():
        table.add_row(
            name,
            f"yes, {here.version}" if here.found else "no",
            ", ".join(target.integers.ops),
            ", ".join(target.dynamic.ops) or "none",
            "" if here.found else here.detail,
        )
    plain_console().print(table)


@contextlib.contextmanager
def quiet_native() -> Generator[None]:
    """Exporters and native runtimes talk on stderr about packages and processors nobody asked for."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:  # noqa: PTH123  a descriptor is needed
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def stdout_kept(*, wanted: bool) -> Generator[None]:
    """What the project's own code prints goes to stderr, so that stdout holds the JSON document alone."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):  # where sys.stdout does not write to descriptor 1
            yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def progress_bar(*, silent: bool) -> Generator[Callable[[float, str], None] | None]:
    """One bar for the whole run, with an estimate of what is left; plain lines without a terminal."""
    if silent:
        yield None
        return
    with os.fdopen(os.dup(2), "w") as real:  # a descriptor of its own: `quiet_native` redirects the other
        if sys.stderr.isatty():
            with _bar(real) as report:
                yield report
        else:
            yield _lines(real)


@contextlib.contextmanager
def _bar(real: TextIO) -> Generator[Callable[[float, str], None]]:
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # The estimate is over the whole run so far: shares are weighted by expected seconds.
    with Progress(*columns, console=Console(file=real), transient=True, speed_estimate_period=1e6) as bar:
        row = bar.add_task("start", total=1.0)
        yield lambda done, label: bar.update(row, completed=done, description=label)


def _lines(real: TextIO) -> Callable[[float, str], None]:
    """Without a terminal: one line when a stage begins."""
    seen: set[str] = set()

    def show(done: float, label: str) -> None:
        if label not in seen:
            seen.add(label)
            real.write(f"[{done:4.0%}] {label}\n")
            real.flush()

    return show
