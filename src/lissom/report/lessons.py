"""What a student learned, beside its teachers and a control: tables and words. Pure functions of the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lissom.measure.records import ComparisonRecord, DistillationRecord, StepRecord
from lissom.report.tables import Column, Table
from lissom.report.units import MISSING, bytes_text, change_text_of, metric_value_text, plural, significant

CLASSES = 10
"""Rows of the table of classes."""


@dataclass(frozen=True)
class Lesson:
    """One step that learned from teachers, as the template shows it."""

    title: str
    text: str
    answerers: Table | None
    classes: Table | None


def lessons(steps: Sequence[StepRecord]) -> tuple[Lesson, ...]:
    return tuple(
        Lesson(
            title=f"Step {number}, {step.title or step.transform}: student, teacher, control",
            text=" ".join(_sentences(step.distillation)),
            answerers=_answerers(step.distillation.comparison),
            classes=_classes(step.distillation.comparison),
        )
        for number, step in enumerate(steps, start=1)
        if step.distillation is not None
    )


def _sentences(record: DistillationRecord) -> list[str]:
    parts = ", ".join(f"{name} {significant(value)}" for name, value in record.losses.items())
    said = [f"Learned from: {', '.join(record.teachers)}; share of the loss {record.share:g}.", f"Losses: {parts}."]
    for name, pairs in record.taps.items():
        said.append(f"Taps of {name}: {', '.join(f'{s} to {t}' for s, t in pairs.items())}.")
    found = record.comparison
    if found is not None and found.agreement is not None:
        said.append(f"The student gives the teachers' likeliest answer in {found.agreement:.1%} of the cases.")
    if found is not None and found.unexplained is not None:
        said.append(f"It leaves {found.unexplained:.2%} of the teachers' squared values unexplained.")
    if record.rounds:
        name = found.metric_name if found and found.metric_name else ""
        shown = ", ".join(metric_value_text(name, value) for value in record.rounds)
        said.append(f"Validation metric of each generation: {shown}.")
    if record.kept:
        again = f", {record.replaced:,} of them made again" if record.replaced else ""
        said.append(f"Kept on disk: {plural(record.kept, 'answer')}{again}, {bytes_text(record.kept_bytes)}.")
    return said


def _answerers(found: ComparisonRecord | None) -> Table | None:
    if found is None:
        return None
    name, first = found.metric_name or "", found.answerers[0]
    rows = tuple(
        (
            one.name,
            metric_value_text(name, one.metric),
            "" if one is first else change_text_of(name, one.metric, first.metric),
            MISSING if one.calibration_error is None else f"{100 * one.calibration_error:.2f} points",
            MISSING if one.agreement is None else f"{one.agreement:.1%}",
        )
        for one in found.answerers
    )
    columns = (
        Column("Model"),
        Column(f"{name or 'Metric'} (validation)", "number"),
        Column("The student's lead", "number"),
        Column("Calibration error", "number"),
        Column("Agrees with the teachers", "number"),
    )
    return Table("Student, teachers and control on the same examples", columns, rows)


def _classes(found: ComparisonRecord | None) -> Table | None:
    if found is None or not found.classes or len(found.answerers) < 2:
        return None
    names = [one.name for one in found.answerers]
    rows = tuple(
        (
            str(one.label),
            f"{one.examples:,}",
            *(f"{100 * share:.1f}%" for share in one.right),
            f"{100 * (one.right[0] - one.right[1]):+.1f} points",
        )
        for one in found.classes[:CLASSES]
    )
    columns = (
        Column("Class"),
        Column("Examples", "number"),
        *(Column(name, "number") for name in names),
        Column(f"Student less {names[1]}", "number"),
    )
    count = len(found.classes)
    which = f"The {CLASSES} classes that differ most" if count > CLASSES else "Classes, those that differ most first"
    return Table(f"{which}: share that each has right", columns, rows)


def corrections(steps: Sequence[StepRecord]) -> Table | None:
    """What quantization tried, and whether it was kept; None where nothing was tried."""
    rows = tuple(
        (
            f"{number}. {one.name}",
            str(one.layers),
            f"{100 * one.error_before:.3g}%",
            f"{100 * one.error_after:.3g}%",
            "kept" if one.accepted else "put back",
        )
        for number, step in enumerate(steps, start=1)
        for one in step.corrections
    )
    columns = (
        Column("Step and correction"),
        Column("Layers", "number"),
        Column("Error without", "number"),
        Column("Error with", "number"),
        Column("Verdict"),
    )
    caption = "Corrections that quantization tried: squared error of the outputs on held-out examples"
    return Table(caption, columns, rows) if rows else None
