"""`lissom demo`: train a small network on real digits, compress it, measure it on every runtime installed here."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lissom import demo_project
from lissom.console import plain_console
from lissom.export.catalogue import survey
from lissom.goal import Goal
from lissom.measure.records import RunRecord
from lissom.pipeline import Result, compress
from lissom.progress import Report
from lissom.recipe import Recipe
from lissom.report.headline import summary
from lissom.report.html import write
from lissom.report.units import bytes_text, metric_text, ms_text, ratio_interval_text
from lissom.terminal import progress_bar, quiet_native
from lissom.transforms.folding import Fold
from lissom.transforms.quantization import Quantize

BATCH = 64
GOAL = Goal(metric_drop=0.01, size_ratio=3.0)


def run_demo(out: Path | None, *, as_json: bool) -> tuple[list[RunRecord], bool]:
    """The story on one screen; returns what was measured, and whether every goal was met."""
    console = plain_console(stderr=as_json)
    place = out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    console.print(
        Text.assemble(("Lissom demo", "bold"), ": 1,797 real 8x8 scans of handwritten digits, a small CNN, int8.\n")
    )
    started = time.perf_counter()
    with quiet_native():
        model, task = demo_project.build()
    console.print(f"Trained in {time.perf_counter() - started:.0f} s. Compressing for every runtime found here:\n")
    with quiet_native():
        found = survey()
    measured = [name for name, (_, here) in found.items() if here.found and name != "torch"]
    results: list[Result] = []
    with progress_bar(silent=as_json) as progress:
        for index, name in enumerate(measured):
            with quiet_native():
                result = compress(
                    model,
                    task,
                    target=name,
                    goal=GOAL,
                    recipe=Recipe([Fold(), Quantize()]),
                    out=place / name,
                    batch_size=BATCH,
                    progress=_part(progress, name, index, len(measured)),
                    command="lissom demo",
                )
            results.append(result)
    for result in results:
        console.print(f"  {result.record.target:<12} {summary(result.record)}")
    for name, (_, here) in found.items():
        if name not in measured:
            detail = "the reference, no integer kernels" if name == "torch" else here.detail
            console.print(f"  {name:<12} not measured: {detail}", soft_wrap=True)
    records = [result.record for result in results]
    page = write(records, place / "report.html")
    best = min(records, key=lambda record: record.after.latency_ms.median)
    _story(console, best, len(records))
    console.print(f"\nRun folders: {place}\nReport:      {page}", soft_wrap=True)
    return records, all(result.goal_met for result in results)


def _part(report: Report | None, name: str, index: int, count: int) -> Report | None:
    """Progress of one run among `count`."""
    return report and (lambda done, label: report((index + done) / count, f"{name}: {label}"))


def _story(console: Console, best: RunRecord, count: int) -> None:
    before, after = best.before, best.after
    console.print(Text.assemble(f"\nFastest of {count}: ", (best.target, "bold"), f", {BATCH} scans at a time"))
    rows = (
        (
            "file",
            bytes_text(before.size_bytes),
            bytes_text(after.size_bytes),
            f"{best.ratios.size:.2f}x smaller",
        ),
        (
            "latency",
            ms_text(before.latency_ms.median),
            ms_text(after.latency_ms.median),
            f"{ratio_interval_text(best.ratios.latency, best.ratios.latency_low, best.ratios.latency_high)} faster",
        ),
        (
            "test " + (after.metric.name if after.metric else "metric"),
            metric_text(before.metric),
            metric_text(after.metric),
            "",
        ),
    )
    for name, was, now, gain in rows:
        console.print(f"  {name:<14} {was:>12}  ->  {now:<12} {gain}")
