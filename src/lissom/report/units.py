"""Numbers as text, the same in the terminal and on the page.

Sizes are decimal (1 kB = 1000 bytes), as disks, app stores and download limits count them.
"""

from __future__ import annotations

import math
import re

from lissom.measure.records import Interval, MetricValue

MISSING = "not measured"

_SHARES = frozenset(
    ("accuracy", "acc", "top1", "top5", "precision", "recall", "f1", "iou", "miou", "dice", "map", "auc")
)


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits, never an exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if not math.isfinite(value):
        return "n/a"
    rounded = float(f"{value:.{digits - 1}e}")
    if rounded == 0:
        return "0"
    # the exponent of the rounded value: 9.996 is 10.0, not 10.00
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.{max(decimals, 0)}f}"


def bytes_text(size_bytes: int | None) -> str:
    """1090000 -> '1.09 MB'."""
    if size_bytes is None:
        return MISSING
    if abs(size_bytes) < 1000:
        return f"{size_bytes} B"
    value, unit = _scaled(size_bytes, ("B", "kB", "MB", "GB", "TB", "PB"))
    return f"{significant(value)} {unit}"


def count_text(count: int) -> str:
    """Parameters, MACs: 272474 -> '272k', 41000000 -> '41.0M'."""
    if abs(count) < 1000:
        return str(count)
    value, unit = _scaled(count, ("", "k", "M", "G", "T", "P"))
    return f"{significant(value)}{unit}"


def ms_text(latency_ms: float | None) -> str:
    """0.2345 -> '0.234 ms'."""
    return MISSING if latency_ms is None else f"{significant(latency_ms)} ms"


def interval_text(interval: Interval) -> str:
    """'0.920 ms [0.905, 0.941]': the median and its 95 % interval."""
    return f"{ms_text(interval.median)} {bounds_text(interval.low, interval.high)}"


def seconds_text(seconds: float) -> str:
    """12.34 -> '12.3 s', 200 -> '3 min 20 s', 3900 -> '1 h 05 min'."""
    if seconds < 60:
        return f"{significant(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ratio_text(ratio: float) -> str:
    """Before / after: 3.94 -> '3.9x'. Two decimals below 2, where the first one hides the difference."""
    if not math.isfinite(ratio):
        return "n/a"
    return f"{ratio:.{2 if ratio < 2 else 1 if ratio < 100 else 0}f}x"


def ratio_interval_text(ratio: float, low: float, high: float) -> str:
    """'2.6x [2.55, 2.71]'."""
    return f"{ratio_text(ratio)} {bounds_text(low, high)}"


def bounds_text(low: float, high: float) -> str:
    """'[2.55, 2.71]': one digit more than the ratio they are about, or a narrow interval would be a point."""
    return f"[{significant(low)}, {significant(high)}]"


def db_text(sqnr_db: float | None) -> str:
    """Signal to quantization noise ratio: '31.4 dB'."""
    if sqnr_db is None:
        return MISSING
    return f"{sqnr_db:.1f} dB" if math.isfinite(sqnr_db) else "no error"


def percent_factor(name: str, *values: float) -> float | None:
    """What turns this metric into percent: 100 for a fraction, 1 for a percentage, None when it is neither.

    Only metrics that are shares by their name: a loss of 0.43 is not 43 %.
    """
    if _SHARES.isdisjoint(re.split(r"[^a-z0-9]+", name.lower())) or not values:
        return None
    if not all(0 <= value <= 100 for value in values):
        return None
    return 100.0 if max(values) <= 1 else 1.0


def metric_text(metric: MetricValue | None) -> str:
    """'91.73%' for a share, '-0.4322' for anything else."""
    return MISSING if metric is None else metric_value_text(metric.name, metric.value)


def metric_value_text(name: str, value: float | None) -> str:
    if value is None:
        return MISSING
    factor = percent_factor(name, value)
    return f"{value:.4g}" if factor is None else f"{value * factor:.2f}%"


def change_text(before: MetricValue | None, after: MetricValue | None) -> str:
    """After minus before: '-0.03 points' (percentage points) for a share, '-0.0123' for anything else."""
    if before is None or after is None:
        return MISSING
    return change_text_of(before.name, before.value, after.value)


def change_text_of(name: str, before: float | None, after: float | None) -> str:
    """As `change_text`, of values of the metric `name`."""
    if before is None or after is None:
        return MISSING
    factor = percent_factor(name, before, after)
    if factor is None:
        delta = after - before
        return f"{delta:+.4g}" if delta else "0"
    points = round((after - before) * factor, 2)
    return "0.00 points" if points == 0 else f"{points:+.2f} points"


def plural(count: int, noun: str) -> str:
    """'1 layer', '22 layers'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _scaled(value: float, units: tuple[str, ...]) -> tuple[float, str]:
    power = 0
    while abs(float(f"{value:.2e}")) >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return value, units[power]
