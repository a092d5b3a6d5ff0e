"""Quality before and after: a row for each metric."""

from __future__ import annotations

from collections.abc import Iterator

from lissom.measure.metric_records import MetricValue
from lissom.measure.records import Side
from lissom.report.units import change_text, metric_text

Row = tuple[str, str, str, str]
"""What, before, after, change."""


def quality_rows(before: Side, after: Side) -> Iterator[Row]:
    """The task's own metric first; a further one where it was measured on both sides."""
    yield _row(before.metric, after.metric)
    held = {one.name: one for one in after.metrics}
    for one in before.metrics:
        if one.name in held:
            yield _row(one, held[one.name])


def metric_name(metric: MetricValue | None) -> str:
    return "Metric" if metric is None else f"{metric.name} ({metric.split} split)"


def _row(before: MetricValue | None, after: MetricValue | None) -> Row:
    return (metric_name(after or before), metric_text(before), metric_text(after), change_text(before, after))
