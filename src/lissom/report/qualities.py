"""Quality before and after, a row for each metric; energy."""

from __future__ import annotations

from collections.abc import Iterator

from lissom.measure.metric_records import ClassShare, ClassShares, MetricValue
from lissom.measure.records import Ratios, Side
from lissom.report.units import change_text, change_text_of, metric_text, ratio_interval_text, significant

Row = tuple[str, str, str, str]
"""What, before, after, change."""


def quality_rows(before: Side, after: Side) -> Iterator[Row]:
    """The task's own metric first; a further one where it was measured on both sides."""
    yield _row(before.metric, after.metric)
    held = {one.name: one for one in after.metrics}
    for one in before.metrics:
        if one.name in held:
            yield _row(one, held[one.name])
    if before.classes and after.classes:
        yield from _class_rows(before.classes, after.classes)


def _class_rows(before: ClassShares, after: ClassShares) -> Iterator[Row]:
    name = after.metric
    yield (
        f"Worst class, {name} ({after.split} split)",
        _class_text(before.worst),
        _class_text(after.worst),
        change_text_of("accuracy", before.worst.share, after.worst.share),
    )
    then, now = after.most_lost(before)
    if now.share < then.share:
        change = change_text_of("accuracy", then.share, now.share)
        yield (f"Class that lost most, {name} ({after.split} split)", _class_text(then), _class_text(now), change)


def _class_text(one: ClassShare) -> str:
    """'class 3: 80.00% of 100'."""
    return f"class {one.label}: {one.share:.2%} of {one.examples:,}"


def energy_row(before: Side, after: Side, ratios: Ratios) -> Iterator[Row]:
    """Where the machine told it."""
    if before.energy and after.energy and ratios.energy is not None:
        low, high = ratios.energy_low or ratios.energy, ratios.energy_high or ratios.energy
        was, now = (f"{significant(1e3 * used.median)} mJ" for used in (before.energy, after.energy))
        yield ("Energy per input", was, now, ratio_interval_text(ratios.energy, low, high))


def metric_name(metric: MetricValue | None) -> str:
    return "Metric" if metric is None else f"{metric.name} ({metric.split} split)"


def _row(before: MetricValue | None, after: MetricValue | None) -> Row:
    return (metric_name(after or before), metric_text(before), metric_text(after), change_text(before, after))
