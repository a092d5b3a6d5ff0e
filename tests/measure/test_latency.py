"""Timing is tested on a clock that only moves when a callable says so: no result depends on the machine."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import FailureError, UsageError
from lissom.measure.latency import bootstrap_median, interleave, paired_ratio, summarise
from lissom.measure.records import Latency

MS = 1_000_000
latencies = st.floats(min_value=1e-3, max_value=1e4)
samples_of = st.lists(latencies, min_size=1, max_size=40)


class FakeClock:
    """Nanoseconds that pass only in `spend`."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def __call__(self) -> int:
        return self.now

    def spend(self, name: str, milliseconds: float):
        def call() -> None:
            self.log.append(name)
            self.now += round(milliseconds * MS)

        return call


def blocks(log: list[str]) -> list[tuple[str, int]]:
    """Runs of the same name: (name, how many calls)."""
    runs: list[tuple[str, int]] = []
    for name in log:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs


def test_one_sample_per_round_and_callable_in_milliseconds():
    clock = FakeClock()
    calls = {"a": clock.spend("a", 4.0), "b": clock.spend("b", 1.0)}
    samples = interleave(calls, rounds=5, block_ms=20, warmup_ms=0, clock=clock)
    assert samples == {"a": (4.0,) * 5, "b": (1.0,) * 5}


def test_order_alternates_so_drift_cancels():
    clock = FakeClock()
    calls = {name: clock.spend(name, 50.0) for name in "abc"}
    interleave(calls, rounds=4, block_ms=20, warmup_ms=0, clock=clock)
    assert "".join(clock.log) == "abc" + "abc" + "cba" + "abc" + "cba"


def test_linear_drift_leaves_the_mean_of_paired_ratios_at_one():
    clock = FakeClock()

    def slowing() -> None:
        clock.now += 100 * MS + clock.now // 100

    samples = interleave({"a": slowing, "b": slowing}, rounds=10, block_ms=1, warmup_ms=0, clock=clock)
    ratio = paired_ratio(samples["a"], samples["b"])
    assert samples["a"][-1] > 1.15 * samples["a"][0]
    # A and B differ by one step of the drift (1 %) inside a round, with alternating sign.
    assert ratio.median == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("call_ms", "calls_per_block"),
    [(50.0, 1), (20.0, 1), (19.0, 3), (12.0, 3), (5.0, 4), (1.0, 20)],
)
def test_a_block_is_filled_and_cheap_calls_are_repeated(call_ms, calls_per_block):
    clock = FakeClock()
    calls = {"a": clock.spend("a", call_ms), "b": clock.spend("b", call_ms)}
    interleave(calls, rounds=1, block_ms=20, warmup_ms=0, clock=clock)
    assert blocks(clock.log)[2:] == [("a", calls_per_block), ("b", calls_per_block)]


def test_warm_up_is_not_timed():
    clock = FakeClock()
    state = {"calls": 0}

    def cold_at_first() -> None:
        state["calls"] += 1
        clock.now += 100 * MS if state["calls"] <= 2 else 10 * MS

    samples = interleave({"a": cold_at_first}, rounds=3, block_ms=20, warmup_ms=150, clock=clock)
    assert samples["a"] == (10.0,) * 3


def test_the_median_of_a_block_drops_the_first_call_after_a_switch():
    clock = FakeClock()

    def cold_after_other() -> None:
        clock.now += 9 * MS if clock.log[-1:] == ["b"] else 5 * MS
        clock.log.append("a")

    calls = {"a": cold_after_other, "b": clock.spend("b", 5.0)}
    samples = interleave(calls, rounds=6, block_ms=20, warmup_ms=0, clock=clock)
    assert samples["a"] == (5.0,) * 6


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collector_is_paused_in_blocks_and_restored(enabled):
    clock = FakeClock()
    seen: list[bool] = []
    between: list[bool] = []

    def call() -> None:
        seen.append(gc.isenabled())
        clock.now += 30 * MS

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        interleave(
            {"a": call},
            rounds=2,
            warmup_ms=0,
            progress=lambda _: between.append(gc.isenabled()),
            clock=clock,
        )
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
    assert seen[1:] == [False, False]
    assert between == [enabled, enabled]
    assert after == enabled


def test_garbage_collector_is_restored_when_a_call_fails():
    clock = FakeClock()

    def call() -> None:
        clock.now += 30 * MS
        if clock.now > 40 * MS:
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        interleave({"a": call}, rounds=2, warmup_ms=0, clock=clock)
    assert gc.isenabled()


def test_progress_is_the_share_of_rounds():
    clock = FakeClock()
    seen: list[float] = []
    interleave({"a": clock.spend("a", 30)}, rounds=4, warmup_ms=0, progress=seen.append, clock=clock)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_real_clock_gives_positive_samples():
    samples = interleave({"a": lambda: sum(range(100))}, rounds=3, block_ms=0, warmup_ms=0)
    assert len(samples["a"]) == 3
    assert min(samples["a"]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calls": {}}, "interleave() got nothing to time. Give it a mapping from a name to a callable."),
        ({"rounds": 0}, "rounds must be at least 1, got 0. Use 30 for a useful interval."),
        ({"block_ms": -1.0}, "block_ms must be a duration in milliseconds, got -1.0. Use 20 or more."),
        (
            {"warmup_ms": float("nan")},
            "warmup_ms must be a duration in milliseconds, got nan. Use 20 or more.",
        ),
    ],
)
def test_senseless_plans_are_refused(arguments, message):
    with pytest.raises(UsageError) as error:
        interleave(**{"calls": {"a": lambda: None}, **arguments})
    assert str(error.value) == message


@given(samples_of, st.floats(min_value=0.001, max_value=0.999))
def test_interval_contains_the_median_and_stays_within_the_samples(samples, confidence):
    interval = bootstrap_median(samples, confidence=confidence, resamples=50)
    assert interval.low <= interval.median <= interval.high
    assert min(samples) <= interval.low
    assert interval.high <= max(samples)
    assert interval.median == float(np.median(samples))


@pytest.mark.parametrize(
    "samples", [[0.88, 3.92, 0.51, 1.42, 2.47, 1.10], [1.04, 0.10, 0.80, 0.29, 0.48, 0.58, 0.73, 1.51]]
)
def test_interval_is_widened_to_its_median_where_the_resamples_miss_it(samples):
    interval = bootstrap_median(samples, confidence=0.01, resamples=50)
    assert interval.low <= interval.median <= interval.high
    assert interval.median in (interval.low, interval.high)


@given(samples_of)
def test_ratio_of_identical_samples_is_exactly_one(samples):
    interval = paired_ratio(samples, samples, resamples=100)
    assert (interval.low, interval.median, interval.high) == (1.0, 1.0, 1.0)


@given(samples_of, st.integers(min_value=-8, max_value=8))
def test_median_scales_with_the_unit(samples, exponent):
    # Powers of two scale without rounding, so equality is exact.
    scale = 2.0**exponent
    plain = bootstrap_median(samples, resamples=100)
    scaled = bootstrap_median([scale * sample for sample in samples], resamples=100)
    assert (scaled.low, scaled.median, scaled.high) == (
        scale * plain.low,
        scale * plain.median,
        scale * plain.high,
    )


@given(samples_of, st.floats(min_value=0.1, max_value=100))
def test_ratio_does_not_depend_on_the_unit(samples, scale):
    before = [3.0 * sample for sample in samples]
    plain = paired_ratio(before, samples, resamples=100)
    scaled = paired_ratio([scale * b for b in before], [scale * s for s in samples], resamples=100)
    assert scaled.median == pytest.approx(plain.median, rel=1e-12)
    assert scaled.low == pytest.approx(plain.low, rel=1e-12)
    assert scaled.high == pytest.approx(plain.high, rel=1e-12)


def test_ratio_is_paired_by_round():
    # Each round is slower for both; only the pairing shows that one side is twice as fast in all of them.
    after = [1.0, 5.0, 2.0, 9.0, 3.0]
    interval = paired_ratio([2.0 * value for value in after], after)
    assert (interval.low, interval.median, interval.high) == (2.0, 2.0, 2.0)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    samples = np.random.default_rng(3).lognormal(size=15).tolist()
    assert bootstrap_median(samples, seed=1) == bootstrap_median(samples, seed=1)
    intervals = {bootstrap_median(samples, seed=seed, resamples=50).high for seed in range(10)}
    assert len(intervals) > 1


def coverage(confidence: float, trials: int = 400, size: int = 30) -> float:
    """How often the interval holds the true median (0) of a normal distribution."""
    generator = np.random.default_rng(11)
    hits = 0
    for trial in range(trials):
        samples = generator.normal(size=size).tolist()
        interval = bootstrap_median(samples, confidence=confidence, resamples=400, seed=trial)
        hits += interval.low <= 0.0 <= interval.high
    return hits / trials


def test_intervals_cover_the_true_median_as_often_as_they_say():
    # Standard error of a share near 0.95 over 400 trials is 0.011; three of them, and one point for the
    # bootstrap's own error at 30 samples.
    assert coverage(0.95) == pytest.approx(0.95, abs=0.043)
    # The same check must tell a 50 % interval from a 95 % one.
    assert coverage(0.5) == pytest.approx(0.5, abs=0.09)


def test_more_confidence_is_a_wider_interval():
    samples = np.random.default_rng(5).normal(10, 1, size=40).tolist()
    narrow, wide = bootstrap_median(samples, confidence=0.5), bootstrap_median(samples, confidence=0.99)
    assert wide.low < narrow.low
    assert narrow.high < wide.high


def test_summary_keeps_the_raw_samples():
    samples = [float(value) for value in range(1, 22)]
    random.Random(0).shuffle(samples)
    summary = summarise(samples)
    assert isinstance(summary, Latency)
    assert summary.samples == tuple(samples)
    assert summary.median == 11.0
    assert summary.p95 == pytest.approx(20.0)
    interval = bootstrap_median(samples)
    assert (summary.low, summary.high) == (interval.low, interval.high)
    assert Latency.model_validate_json(summary.model_dump_json()) == summary


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_median([]), "samples must be a sequence of at least one number, got shape (0,)."),
        (lambda: summarise([]), "samples must be a sequence of at least one number, got shape (0,)."),
        (lambda: bootstrap_median([1.0, float("nan")]), "samples must be finite, got [1.0, nan]."),
        (
            lambda: bootstrap_median([1.0], confidence=95),
            "confidence must be between 0 and 1, got 95. Use 0.95.",
        ),
        (lambda: bootstrap_median([1.0], resamples=0), "resamples must be at least 1, got 0. Use 2000."),
        (
            lambda: paired_ratio([1.0, 2.0], [1.0]),
            "A paired ratio needs one sample of each side per round, got 2 before and 1 after. Time both in "
            "one interleave().",
        ),
    ],
)
def test_senseless_samples_are_refused(call, message):
    with pytest.raises(UsageError) as error:
        call()
    assert str(error.value) == message


def test_a_call_too_short_for_the_clock_is_reported():
    with pytest.raises(FailureError) as error:
        paired_ratio([1.0, 1.0], [1.0, 0.0])
    assert str(error.value) == (
        "A latency sample is 0 ms: the call is shorter than the clock can see. Time a larger batch."
    )
