"""What the command line shows: rich tables of graphs, plans, runs, runtimes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from lissom.export.base import Availability
from lissom.graph.graph import Graph, Shape
from lissom.measure.records import RunRecord
from lissom.pipeline import Remeasured
from lissom.report import tables
from lissom.report.headline import summary
from lissom.report.units import bytes_text, count_text, interval_text, ratio_interval_text
from lissom.target import Target
from lissom.transforms.base import Plan


def _console() -> Console:
    return Console(highlight=False)


def _table(title: str, *columns: str) -> RichTable:
    table = RichTable(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def rich_table(table: tables.Table) -> RichTable:
    """A table of the report, for the terminal."""
    shown = RichTable(title=table.caption, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in table.columns:
        shown.add_column(column.name, justify="left" if column.kind == "text" else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    return shown


def _shape(shape: Shape) -> str:
    return " x ".join(str(size) for size in shape)


def show_graph(graph: Graph, name: str) -> None:
    console = _console()
    table = _table(f"{escape(name)}: layers", "layer", "operator", "output", "MACs", "parameters", "bytes")
    for layer in graph.layers:
        table.add_row(
            escape(layer.name),
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


def show_plans(graph: Graph, plans: Sequence[Plan], target: Target) -> None:
    console = _console()
    console.print(f"Target: {target.title}\n")
    for plan in plans:
        kinds: dict[str, int] = {}
        for action in plan.actions:
            kinds[action.kind] = kinds.get(action.kind, 0) + 1
        done = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "nothing"
        cost = plan.predicted
        console.print(f"[bold]{plan.transform}[/bold]: {done}; {len(plan.skipped)} skipped")
        console.print(
            f"  then {count_text(cost.macs)} MACs, {count_text(cost.parameters)} parameters, {bytes_text(cost.bytes)} "
            f"(original: {bytes_text(graph.bytes)})"
        )
        if plan.skipped:
            table = _table("", "skipped", "why")
            for skip in plan.skipped:
                table.add_row(escape(skip.layer), escape(skip.reason))
            console.print(table)


def show_run(record: RunRecord, folder: Path, report: Path) -> None:
    console = _console()
    console.print(f"\n[bold]{escape(record.name)}[/bold] on {record.target}: {escape(summary(record))}\n")
    console.print(rich_table(tables.before_after(record)))
    if record.goal:
        console.print()
        console.print(rich_table(tables.goals(record)))
    if record.trials:
        console.print()
        console.print(rich_table(tables.trials(record)))
    for note in record.notes:
        console.print(f"\nNote: {escape(note)}")
    console.print(f"\nRun folder: {folder}\nReport:     {report}", soft_wrap=True)


def show_measured(rows: Sequence[Remeasured]) -> None:
    table = _table(
        "Measured now, interleaved", "run", "model", "target", "batch", "latency", "size", "against its original"
    )
    for row in rows:
        faster = ratio_interval_text(row.faster.median, row.faster.low, row.faster.high) if row.faster else ""
        table.add_row(
            escape(row.run),
            row.model,
            row.target,
            str(row.batch_size),
            interval_text(row.latency_ms),
            bytes_text(row.size_bytes),
            faster,
        )
    _console().print(table)


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
            "" if here.found else escape(here.detail),
        )
    _console().print(table)


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
