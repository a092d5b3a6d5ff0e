"""The three figures that answer whether it was worth it: size, latency, metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lissom.measure.records import RunRecord
from lissom.report.units import (
    MISSING,
    bounds_text,
    bytes_text,
    change_text,
    metric_text,
    ms_text,
    plural,
    ratio_text,
)

Verdict = Literal["better", "worse", "neutral"]


@dataclass(frozen=True)
class Headline:
    """'3.5x', 'smaller', '', '1.09 MB to 310 kB'."""

    figure: str
    label: str
    interval: str
    """'[2.55, 2.71]'; empty where the figure has none."""
    detail: str
    verdict: Verdict


def headlines(run: RunRecord) -> tuple[Headline, ...]:
    """Size, latency, metric, in this order."""
    return (_size(run), _latency(run), _metric(run))


def summary(run: RunRecord) -> str:
    """'3.5x smaller, 2.6x faster [2.55, 2.71], accuracy -0.03 points.'"""
    size, latency, _ = headlines(run)
    speed = " ".join(part for part in (latency.figure, latency.label, latency.interval) if part)
    name = run.before.metric.name if run.before.metric else "metric"
    change = f"{name} {change_text(run.before.metric, run.after.metric)}"
    return f"{size.figure} {size.label}, {speed}, {change}."


def _size(run: RunRecord) -> Headline:
    ratio = run.ratios.size
    # Files a few bytes apart are the same size: what reads 1.00x is no gain.
    verdict = _verdict(ratio, ratio) if ratio_text(ratio) != ratio_text(1.0) else "neutral"
    detail = f"{bytes_text(run.before.size_bytes)} to {bytes_text(run.after.size_bytes)}"
    if verdict == "worse":
        return Headline(ratio_text(1 / ratio), "larger", "", detail, verdict)
    return Headline(ratio_text(ratio), "smaller" if verdict == "better" else "the size", "", detail, verdict)


def _latency(run: RunRecord) -> Headline:
    ratio, low, high = run.ratios.latency, run.ratios.latency_low, run.ratios.latency_high
    before, after = run.before.latency_ms.median, run.after.latency_ms.median
    detail = f"{ms_text(before)} to {ms_text(after)} per call, batch of {run.after.batch_size}"
    verdict = _verdict(low, high)
    label = {"better": "faster", "worse": "slower", "neutral": "the speed, no measurable difference"}[verdict]
    if verdict == "worse":
        # "0.8x slower" would read as its opposite
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    return Headline(ratio_text(ratio), label, bounds_text(low, high), detail, verdict)


def _metric(run: RunRecord) -> Headline:
    before, after = run.before.metric, run.after.metric
    if before is None or after is None:
        return Headline("n/a", f"metric {MISSING}", "", "the task gave no metric or no examples", "neutral")
    change = f"{metric_text(before)} to {metric_text(after)}"
    detail = f"{change}, {after.split} split, {plural(after.samples, 'example')}"
    # whether a drop is acceptable is for the goal to say
    figure, _, unit = change_text(before, after).partition(" ")
    label = f"{unit} of {after.name}" if unit else f"change in {after.name}"
    return Headline(figure, label, "", detail, "neutral")


def _verdict(low: float, high: float) -> Verdict:
    """Better or worse only where the whole interval says so."""
    if low > 1:
        return "better"
    return "worse" if low > 0 and high < 1 else "neutral"
