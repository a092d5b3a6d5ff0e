"""A goal against what was measured: each wish, the figure reached, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from lissom.errors import GoalError, nearest
from lissom.goal import Goal
from lissom.measure.records import GoalItem, MetricValue, Ratios, Side

SMALLEST_FILE = 1000
"""Bytes; below this not even the header of a runtime's file format fits."""


def judge(goal: Goal, before: Side, after: Side, ratios: Ratios) -> tuple[GoalItem, ...]:
    """One item per wish, in the order of `Goal`'s fields; the soft ones after the others.

    A latency ratio is met when its median is; the figure shows the interval beside it.

    Raises:
        GoalError: a wish for something that was not measured.
    """
    hard, soft = goal.part(soft=False), goal.part(soft=True)
    return (
        *_items(hard, before, after, ratios),
        *(item.model_copy(update={"hard": False}) for item in _items(soft, before, after, ratios)),
    )


def reached(items: Iterable[GoalItem]) -> bool:
    """Whether every wish that decides is met."""
    return all(item.met for item in items if item.hard)


def _items(goal: Goal, before: Side, after: Side, ratios: Ratios) -> Iterator[GoalItem]:
    yield from _quality(goal, before, after)
    yield from _classes(goal, before, after)
    yield from _ratios(goal, ratios)
    yield from _maxima(goal, after)
    if goal.by_energy:
        yield from _energy(goal, after, ratios)


def impossible(goal: Goal, before: Side) -> str | None:
    """Why no model could meet the goal, or why the goal says nothing; None for a goal worth working for.

    Only what arithmetic rules out: whether eight times smaller is within reach is for the search to find out.
    """
    for reason in _reasons(goal, before):
        return reason
    return None


def _reasons(goal: Goal, before: Side) -> Iterator[str]:
    yield from _quality_reasons(goal, before)
    yield from _cost_reasons(goal, before)


def _quality_reasons(goal: Goal, before: Side) -> Iterator[str]:
    if goal.metric_drop_share is not None and before.metric is None:
        yield _unmeasured(f"metric drop <= {goal.metric_drop_share:g} of the original's")
    if goal.metric_drop is not None:
        if before.metric is None:
            yield _unmeasured(f"metric drop <= {goal.metric_drop:g}")
        elif _is_share(before.metric) and goal.metric_drop >= 1.0:
            yield (
                f"A drop of {goal.metric_drop:g} in {before.metric.name} is "
                f"{100 * goal.metric_drop:g} points, which any model meets. One point is 0.01."
            )
    if goal.by_class and before.classes is None:
        yield _no_classes(before)
    known = {m.name for m in (*((before.metric,) if before.metric else ()), *before.metrics)}
    for name in goal.bounded:
        if name not in known:
            yield _unknown_metric(before, name)


def _cost_reasons(goal: Goal, before: Side) -> Iterator[str]:
    if goal.size_bytes is not None and goal.size_bytes < SMALLEST_FILE:
        yield f"A size of {goal.size_bytes} B is less than an empty model file ({SMALLEST_FILE} B) takes."
    if goal.size_ratio is not None and before.size_bytes / goal.size_ratio < SMALLEST_FILE:
        yield (
            f"{_times(goal.size_ratio)} smaller than {written_bytes(before.size_bytes)} is less than an "
            f"empty model file ({SMALLEST_FILE} B) takes."
        )
    for name, ratio, original in (
        ("MACs", goal.macs_ratio, before.macs),
        ("parameters", goal.parameters_ratio, before.parameters),
    ):
        if ratio is not None and original / ratio < 1.0:
            yield f"{_times(ratio)} fewer {name} than {original} leaves less than one."


def _quality(goal: Goal, before: Side, after: Side) -> Iterator[GoalItem]:
    if goal.metric_drop is not None or goal.metric_drop_share is not None:
        if before.metric is None or after.metric is None:
            wish = goal.metric_drop if goal.metric_drop is not None else goal.metric_drop_share
            raise GoalError(_unmeasured(f"metric drop <= {wish:g}"))
        yield from _drop("metric", goal.metric_drop, goal.metric_drop_share, before.metric, after.metric)
    for name in goal.bounded:
        drop, share = (goal.metric_drops or {}).get(name), (goal.metric_drop_shares or {}).get(name)
        yield from _drop(name, drop, share, *(_named(side, name) for side in (before, after)))


def _drop(
    name: str, limit: float | None, limit_share: float | None, before: MetricValue, after: MetricValue
) -> Iterator[GoalItem]:
    drop = before.value - after.value
    # 0.93 - 0.92 is 0.010000000000000009 in floating point: one point all the same.
    slack = 1e-9 * max(abs(before.value), abs(after.value), limit or 0.0)
    if limit is not None:
        scale, unit = (100.0, " pt") if _is_share(before) else (1.0, "")
        wish, figure = _distinct(limit * scale, drop * scale, lambda value, digits: f"{value:.{digits}f}{unit}")
        yield GoalItem(wish=f"{name} drop <= {wish}", figure=figure, met=drop <= limit + slack)
    if limit_share is not None:
        whole = abs(before.value)
        share = drop / whole if whole else math.inf if drop > 0 else 0.0
        wish, figure = _distinct(100 * limit_share, 100 * share, _percent)
        met = drop <= limit_share * whole + slack
        yield GoalItem(wish=f"{name} drop <= {wish} of the original's", figure=figure, met=met)


def _classes(goal: Goal, before: Side, after: Side) -> Iterator[GoalItem]:
    if not goal.by_class:
        return
    if before.classes is None or after.classes is None:
        raise GoalError(_no_classes(before))
    if goal.class_floor is not None:
        worst = after.classes.worst
        wish, figure = _distinct(100 * goal.class_floor, 100 * worst.share, _percent)
        held = before.classes.by_label.get(worst.label)
        was = "" if held is None else f", was {100 * held:.2f} %"
        yield GoalItem(
            wish=f"{after.classes.metric} of every class >= {wish}",
            figure=f"{figure} in class {worst.label} ({worst.examples} examples{was})",
            met=worst.share >= goal.class_floor - 1e-9,
        )
    if goal.class_drop is not None:
        then, now = after.classes.most_lost(before.classes)
        drop = then.share - now.share
        wish, figure = _distinct(100 * goal.class_drop, 100 * drop, lambda value, digits: f"{value:.{digits}f} pt")
        yield GoalItem(
            wish=f"{after.classes.metric} drop of every class <= {wish}",
            figure=f"{figure} in class {now.label} ({now.examples} examples)",
            met=drop <= goal.class_drop + 1e-9,
        )


def _percent(value: float, digits: int) -> str:
    return f"{value:.{digits}f} %"


def _no_classes(side: Side) -> str:
    if side.metric is None:
        return _unmeasured("single classes are bounded")
    names = " and ".join(repr(one.name) for one in (side.metric, *side.metrics))
    return (
        f"The goal bounds single classes, and {names} {'tells' if not side.metrics else 'tell'} no classes apart. Give "
        "the task lissom.metrics.accuracy, as its metric or in Task(metrics=...), or a Metric with by_class=..."
    )


def _named(side: Side, name: str) -> MetricValue:
    for metric in (*((side.metric,) if side.metric else ()), *side.metrics):
        if metric.name == name:
            return metric
    raise GoalError(_unknown_metric(side, name))


def _unknown_metric(side: Side, name: str) -> str:
    if side.metric is None:
        return _unmeasured(f"the drop of {name!r} is bounded")
    return (
        f"The goal bounds the drop of {name!r}, which is not measured. {nearest(name, [m.name for m in side.metrics])} "
        f"The task's own metric is {side.metric.name!r}; Task(metrics=...) adds others."
        if side.metrics
        else f"The goal bounds the drop of {name!r}, and the task measures {side.metric.name!r} alone. "
        f"Task(metrics={{{name!r}: ...}}) adds it."
    )


def _ratios(goal: Goal, ratios: Ratios) -> Iterator[GoalItem]:
    latency = f" ({ratios.latency_low:.2f} to {ratios.latency_high:.2f})"
    for name, wished, reached, interval in (
        ("latency", goal.latency_ratio, ratios.latency, latency),
        ("size", goal.size_ratio, ratios.size, ""),
        ("MACs", goal.macs_ratio, ratios.macs, ""),
        ("parameters", goal.parameters_ratio, ratios.parameters, ""),
    ):
        if wished is not None:
            wish, figure = _distinct(wished, reached, lambda value, digits: f"{value:.{digits}f}x")
            met = reached >= wished or math.isclose(reached, wished, rel_tol=1e-9)
            yield GoalItem(wish=f"{name} ratio >= {wish}", figure=figure + interval, met=met)


def _maxima(goal: Goal, after: Side) -> Iterator[GoalItem]:
    if goal.latency_ms is not None:
        latency = after.latency_ms
        wish, figure = _distinct(goal.latency_ms, latency.median, lambda value, digits: f"{value:.{digits + 1}f} ms")
        yield GoalItem(
            wish=f"latency at batch {after.batch_size} <= {wish}",
            figure=f"{figure} ({latency.low:.3f} to {latency.high:.3f})",
            met=latency.median <= goal.latency_ms,
        )
    if goal.latency_p95_ms is not None:
        p95 = after.latency_ms.p95
        wish, figure = _distinct(goal.latency_p95_ms, p95, lambda value, digits: f"{value:.{digits + 1}f} ms")
        met = p95 <= goal.latency_p95_ms
        yield GoalItem(wish=f"95th percentile of latency at batch {after.batch_size} <= {wish}", figure=figure, met=met)
    if goal.throughput is not None:
        rate = 1e3 * after.batch_size / after.latency_ms.median
        wish, figure = _distinct(goal.throughput, rate, lambda value, digits: f"{value:.{digits - 1}f}/s")
        low, high = (1e3 * after.batch_size / edge for edge in (after.latency_ms.high, after.latency_ms.low))
        yield GoalItem(
            wish=f"throughput at batch {after.batch_size} >= {wish}",
            figure=f"{figure} ({low:.1f} to {high:.1f})",
            met=rate >= goal.throughput,
        )
    if goal.size_bytes is not None:
        yield _bytes_item("size", goal.size_bytes, after.size_bytes)
    if goal.peak_memory_bytes is not None:
        if after.peak_memory_bytes is None:
            raise GoalError(
                "The goal limits peak memory, but it was not measured on this target. Leave it out of "
                "the goal, or choose another target."
            )
        yield _bytes_item("peak memory", goal.peak_memory_bytes, after.peak_memory_bytes)


def _energy(goal: Goal, after: Side, ratios: Ratios) -> Iterator[GoalItem]:
    if after.energy is None or ratios.energy is None:
        raise GoalError(
            "The goal limits energy, but it was not measured: the notes of the run say why. Leave it out of the goal, "
            "or measure on a machine that exposes its counters."
        )
    if goal.energy_ratio is not None:
        wish, figure = _distinct(goal.energy_ratio, ratios.energy, lambda value, digits: f"{value:.{digits}f}x")
        low, high = ratios.energy_low or ratios.energy, ratios.energy_high or ratios.energy
        yield GoalItem(
            wish=f"energy ratio >= {wish}",
            figure=f"{figure} ({low:.2f} to {high:.2f})",
            met=ratios.energy >= goal.energy_ratio,
        )
    if goal.energy_joules is not None:
        used = after.energy
        wish, figure = _distinct(
            1e3 * goal.energy_joules, 1e3 * used.median, lambda value, digits: f"{value:.{digits + 1}f} mJ"
        )
        yield GoalItem(
            wish=f"energy of one input at batch {after.batch_size} <= {wish}",
            figure=f"{figure} ({1e3 * used.low:.3f} to {1e3 * used.high:.3f})",
            met=used.median <= goal.energy_joules,
        )


def _bytes_item(name: str, limit: int, reached: int) -> GoalItem:
    wish, figure = _distinct(limit, reached, written_bytes)
    return GoalItem(wish=f"{name} <= {wish}", figure=figure, met=reached <= limit)


def written_bytes(size: float, digits: int = 2) -> str:
    """300000 -> "300.00 KB": decimal units, as file managers and shops count."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.{digits}f} {unit}"
    return f"{size:.0f} B"


def _distinct(wish: float, figure: float, write: Callable[[float, int], str]) -> tuple[str, str]:
    """Both written with two decimals, or as many as it takes to tell them apart."""
    for digits in range(2, 9):
        written = write(wish, digits), write(figure, digits)
        if written[0] != written[1] or math.isclose(wish, figure, rel_tol=1e-9):
            return written
    return write(wish, 9), write(figure, 9)


def _times(ratio: float) -> str:
    return f"{ratio:.10g}x"


def _is_share(metric: MetricValue) -> bool:
    """Whether the metric reads as a share of examples, so that a hundredth of it is a point."""
    return 0.0 <= metric.value <= 1.0


def _unmeasured(wish: str) -> str:
    return (
        f"The goal says {wish}, but no metric was measured. Give the task a metric and test data, or leave "
        "the drop out of the goal."
    )
