"""Latency: several callables timed side by side, and intervals for what was seen.

A machine drifts (frequency, neighbours, temperature), so timing A and then B compares two machines.
`interleave` times them in alternating blocks, A B, B A, A B, ..., and ratios are formed inside a round:

    ratio = median over rounds i of  before[i] / after[i]

Intervals are percentile bootstraps over rounds (Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, section 13.3). They say how well this run knows its own median; what differs from process to process or
from machine to machine is outside of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from lissom.errors import FailureError, UsageError
from lissom.measure.records import Interval, Latency

Call = Callable[[], object]
Clock = Callable[[], int]
"""Nanoseconds, never going back."""

NS_PER_MS = 1_000_000
CHEAP_CALLS = 3
"""Calls per block, at least, when one call fits a block: the median then drops the first one, which pays for
the caches and the spinning threads that the other callable left behind."""

Floats = npt.NDArray[np.float64]


def interleave(
    calls: Mapping[str, Call],
    *,
    rounds: int = 30,
    block_ms: float = 20.0,
    warmup_ms: float = 200.0,
    rest_ms: float = 20.0,
    progress: Callable[[float], None] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, tuple[float, ...]]:
    """Time one or more callables in alternating blocks.

    Args:
        calls: name -> what is timed; must return only when its work is done.
        rounds: blocks per callable. Every second round runs in reverse order, so linear drift cancels.
        block_ms: calls repeat until a block has lasted this long: at least once, and at least three times
            when one call is shorter than a block.
        warmup_ms: untimed running of each callable first, at least one call.
        rest_ms: nothing runs this long before each block. ONNX Runtime's threads go on spinning for some
            milliseconds after a call; on few cores whatever is timed next has them as a neighbour.
        progress: called with the share of rounds done, in (0, 1], between blocks.
        clock: nanoseconds.

    Returns:
        name -> milliseconds per call, one block median per round, in the order they were timed.

    Raises:
        UsageError: nothing to time, or a count or a duration that makes no sense.
    """
    _check_plan(calls, rounds, {"block_ms": block_ms, "warmup_ms": warmup_ms, "rest_ms": rest_ms})
    for call in calls.values():
        _warm_up(call, round(warmup_ms * NS_PER_MS), clock)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            time.sleep(rest_ms / 1000)
            with _collector_paused():
                durations = _block(calls[name], round(block_ms * NS_PER_MS), clock)
            samples[name].append(float(np.median(durations)) / NS_PER_MS)
        if progress is not None:
            progress((index + 1) / rounds)
    return {name: tuple(values) for name, values in samples.items()}


def summarise(samples: Sequence[float]) -> Latency:
    """The record of one callable's samples (milliseconds): median, its 95 % interval, 95th percentile.

    Raises:
        UsageError: no samples.
    """
    interval = bootstrap_median(samples)
    return Latency(
        median=interval.median,
        low=interval.low,
        high=interval.high,
        p95=float(np.percentile(samples, 95)),
        samples=tuple(float(sample) for sample in samples),
    )


def bootstrap_median(
    samples: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """The median of `samples` with its bootstrap interval, in the unit of the samples.

    The interval always contains the median. One sample gives an interval of no width: it says nothing about
    spread, and no honest report rests on it.

    Raises:
        UsageError: no samples, samples that are not finite, or a confidence outside (0, 1).
    """
    values = _finite(samples, "samples")
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence must be between 0 and 1, got {confidence}. Use 0.95.")
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, got {resamples}. Use 2000.")
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    medians = np.median(values[drawn], axis=1)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(medians, [tail, 100.0 - tail])
    median = float(np.median(values))
    # Percentiles of resampled medians can miss the sample's own median by one order statistic.
    return Interval(median=median, low=min(float(low), median), high=max(float(high), median))


def paired_ratio(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """How many times faster `after` is: the median over rounds of before[i] / after[i]; above 1 is better.

    Pairing inside a round removes the drift that both share; the bootstrap draws rounds.

    Raises:
        UsageError: no samples, or not the same number on both sides.
        FailureError: a sample of zero milliseconds, which no ratio can be formed with.
    """
    numerator, denominator = _finite(before, "before"), _finite(after, "after")
    if len(numerator) != len(denominator):
        raise UsageError(
            f"A paired ratio needs one sample of each side per round, got {len(numerator)} before and "
            f"{len(denominator)} after. Time both in one interleave()."
        )
    if min(numerator.min(), denominator.min()) <= 0.0:
        raise FailureError("A latency sample is 0 ms: the call is shorter than the clock can see. Time a larger batch.")
    ratios: list[float] = (numerator / denominator).tolist()
    return bootstrap_median(ratios, confidence=confidence, resamples=resamples, seed=seed)


def _check_plan(calls: Mapping[str, Call], rounds: int, spans: Mapping[str, float]) -> None:
    if not calls:
        raise UsageError("interleave() got nothing to time. Give it a mapping from a name to a callable.")
    if rounds < 1:
        raise UsageError(f"rounds must be at least 1, got {rounds}. Use 30 for a useful interval.")
    for name, value in spans.items():
        if not 0.0 <= value < float("inf"):
            raise UsageError(f"{name} must be a duration in milliseconds, got {value}. Use 20 or more.")


def _warm_up(call: Call, duration_ns: int, clock: Clock) -> None:
    start = clock()
    call()
    while clock() - start < duration_ns:
        call()


def _block(call: Call, duration_ns: int, clock: Clock) -> list[int]:
    """Nanoseconds of each call, one by one, until the block is filled."""
    durations: list[int] = []
    start = clock()
    while True:
        began = clock()
        call()
        ended = clock()
        durations.append(ended - began)
        enough = CHEAP_CALLS if durations[0] < duration_ns else 1
        if len(durations) >= enough and ended - start >= duration_ns:
            return durations


@contextmanager
def _collector_paused() -> Generator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _finite(samples: Sequence[float], name: str) -> Floats:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise UsageError(f"{name} must be a sequence of at least one number, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise UsageError(f"{name} must be finite, got {samples!r}.")
    return values
