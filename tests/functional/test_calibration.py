"""Calibration methods against plain loops over the same histogram, and what every one of them keeps to."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.functional.affine import affine
from lissom.functional.calibration import (
    METHODS,
    TIE,
    Grid,
    by_entropy,
    by_mse,
    by_percentile,
    calibrated,
    grids,
    mean_squared_error,
    squared_errors,
)
from lissom.functional.divergence import divergences
from lissom.functional.histogram import Histogram, Tally
from lissom.functional.ranges import MeanRange, mean_of, range_of

GRIDS = [Grid(dtype=dtype, symmetric=symmetric) for dtype, symmetric in product(("int8", "uint8"), (True, False))]
FEW = [Grid(dtype="int8", symmetric=True, bits=4), Grid(dtype="uint8", symmetric=False, bits=4)]
more_grids = pytest.mark.parametrize("grid", [*GRIDS, *FEW], ids=str)
grid_names = pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.dtype}-{'symmetric' if g.symmetric else 'free'}")
SMALLEST = 2.0**-149
numbers = st.one_of(
    st.floats(-8, 8, width=32),
    st.floats(-(2.0**99), 2.0**99, width=32),
    st.sampled_from([0.0, SMALLEST, -SMALLEST, 3.4028234663852886e38, -3.4028234663852886e38]),
)


def seen_in(values: torch.Tensor) -> tuple[Histogram, MeanRange]:
    tally = Tally()
    tally.add_(values)
    found = range_of(values)
    assert found is not None
    return tally.histogram(), mean_of(found)


def heavy(kind: str, count: int = 20000, seed: int = 0) -> torch.Tensor:
    """Heavy tails (Student's t with two degrees of freedom, cut at 60), with the signs that activations come in."""
    drawn = np.random.default_rng(seed).standard_t(2, count)
    values = torch.from_numpy(drawn[np.abs(drawn) < 60]).float()
    if kind == "relu":
        return values.relu()
    return torch.nn.functional.silu(values) if kind == "silu" else values


def rounded(values: np.ndarray, low: float, high: float, grid: Grid) -> np.ndarray:
    made = affine(low, high, grid.dtype, symmetric=grid.symmetric, bits=grid.bits)
    q_min, q_max = made.limits
    return (np.clip(np.rint(values / made.scale) + made.zero_point, q_min, q_max) - made.zero_point) * made.scale


# Entropy


def divergence(counts: list[int], start: int, stop: int, levels: int) -> float:
    """The definition, bin by bin."""
    clipped = counts[start:stop]
    clipped[0] += sum(counts[:start])
    clipped[-1] += sum(counts[stop:])
    size, total, kept = stop - start, sum(counts), sum(counts[start:stop])
    parts: list[float] = []
    for level in range(levels):
        first, last = level * size // levels, (level + 1) * size // levels
        places = [i for i in range(first, last) if clipped[i] > 0]
        inside = sum(counts[start + first : start + last])
        for i in places:
            if inside == 0:
                return math.inf
            expected = inside / len(places) / kept
            parts.append(clipped[i] / total * math.log(clipped[i] / total / expected))
    return math.fsum(parts)


def exhaustive(seen: Histogram, grid: Grid) -> tuple[float, float]:
    """Every threshold, one by one, over the values as they lie."""
    positive = {seen.first + i: n for i, n in enumerate(seen.counts)}
    signed = not grid.symmetric and seen.low < 0 < seen.high
    levels = {8: 256, 4: 16}[grid.bits]
    if grid.symmetric and not (grid.dtype == "uint8" and seen.low >= 0):
        levels = {8: 128, 4: 8}[grid.bits]
    if signed:
        lowest, counts = seen.first, list(seen.counts)
    else:
        size = 1 + max(i if i >= 0 else -1 - i for i in positive)
        lowest, counts = 0, [positive.get(i, 0) + positive.get(-1 - i, 0) for i in range(size)]
    best, bounds = math.inf, (seen.low, seen.high)
    for reach in range(max(-lowest, lowest + len(counts)), 0, -1):
        start, stop = max(lowest, -reach) - lowest, min(lowest + len(counts), reach) - lowest
        if stop - start < levels:
            break
        found = divergence(counts, start, stop, levels)
        if found < best - TIE:
            best = found
            bounds = max(seen.low, -reach * seen.width), min(seen.high, reach * seen.width)
    return bounds


@grid_names
@pytest.mark.parametrize("kind", ["signed", "relu", "silu"])
def test_divergence_of_many_ranges_equals_the_loop(kind, grid):
    seen, _ = seen_in(heavy(kind))
    rng = np.random.default_rng(1)
    counts = np.asarray(seen.counts)
    levels = 16
    starts = np.sort(rng.integers(0, counts.size - 400, 12))
    stops = starts + rng.integers(levels, 400, 12)
    wanted = [divergence(list(seen.counts), a, b, levels) for a, b in zip(starts, stops, strict=True)]
    np.testing.assert_allclose(divergences(counts, starts, stops, levels), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        ("signed", GRIDS[0]),
        ("signed", GRIDS[3]),
        ("relu", GRIDS[0]),
        ("relu", GRIDS[2]),
        ("silu", GRIDS[3]),
        ("signed", FEW[0]),
    ],
)
def test_entropy_equals_the_exhaustive_search_exactly(kind, grid):
    whole, _ = seen_in(heavy(kind, 3000))
    assert by_entropy(whole, grid) == exhaustive(whole, grid)


@settings(max_examples=8)
@given(st.lists(st.integers(0, 40), min_size=300, max_size=420), st.integers(0, 200))
def test_entropy_of_any_counts_equals_the_exhaustive_search(counts, below):
    counts[0], counts[-1] = max(counts[0], 1), max(counts[-1], 1)
    first = -below
    low = first + 0.5 if below else 0.0
    seen = Histogram(low=low, high=first + len(counts) - 0.5, zeros=0, exponent=0, first=first, counts=tuple(counts))
    for grid in (GRIDS[0], GRIDS[3]):
        assert by_entropy(seen, grid) == exhaustive(seen, grid)


@grid_names
@pytest.mark.parametrize("kind", ["signed", "relu", "silu"])
def test_entropy_differs_from_minmax_on_heavy_tails(kind, grid):
    seen, _ = seen_in(heavy(kind, 200000))
    low, high = by_entropy(seen, grid)
    assert high < 0.8 * max(seen.high, -seen.low)
    assert low >= seen.low


def test_uniform_values_are_not_clipped():
    seen, _ = seen_in(torch.linspace(-1, 1, 100001))
    low, high = by_entropy(seen, GRIDS[0])
    assert high > 0.95
    assert low < -0.95


def test_wrong_ranges_are_refused():
    counts = np.ones(10, np.int64)
    with pytest.raises(ValueError, match="a range of 3 bins cannot have 4 levels"):
        divergences(counts, np.array([0]), np.array([3]), 4)
    with pytest.raises(ValueError, match="the histogram is empty"):
        divergences(0 * counts, np.array([0]), np.array([10]), 4)


# Squared error


@more_grids
@pytest.mark.parametrize("kind", ["signed", "relu", "silu"])
def test_squared_errors_equal_rounding_every_centre(kind, grid):
    seen, _ = seen_in(heavy(kind))
    centres = np.clip((seen.first + np.arange(len(seen.counts)) + 0.5) * seen.width, seen.low, seen.high)
    lows, highs = seen.low * np.array([1, 0.5, 0.1, 0.02, 1]), seen.high * np.array([1, 0.5, 0.1, 0.02, 0.1])
    wanted = [
        (np.array(seen.counts) * (rounded(centres, low, high, grid) - centres) ** 2).sum()
        for low, high in zip(lows, highs, strict=True)
    ]
    got = squared_errors(seen, lows, highs, grid) * np.abs(centres).max() ** 2
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@more_grids
@pytest.mark.parametrize("kind", ["signed", "relu", "silu"])
def test_mean_squared_error_is_that_of_the_values(kind, grid):
    values = heavy(kind)
    seen, _ = seen_in(values)
    plain = values.double().numpy()
    for low, high in ((seen.low, seen.high), (seen.low / 7, seen.high / 7)):
        made = affine(low, high, grid.dtype, symmetric=grid.symmetric, bits=grid.bits)
        wanted = float(((rounded(plain, low, high, grid) - plain) ** 2).mean())
        assert mean_squared_error(seen, made) == pytest.approx(wanted, rel=0.1)
    assert mean_squared_error(seen_in(torch.zeros(3))[0], made) == 0.0


@grid_names
@pytest.mark.parametrize("kind", ["signed", "relu", "silu"])
def test_mse_is_close_to_the_best_of_a_dense_search_on_the_values_themselves(kind, grid):
    values = heavy(kind)
    seen, _ = seen_in(values)
    plain = values.double().numpy()

    def error(low: float, high: float) -> float:
        return float(((rounded(plain, low, high, grid) - plain) ** 2).sum())

    factors = np.geomspace(1, 1 / 64, 60)
    best = min(error(max(seen.low, -seen.high * f), seen.high * f) for f in factors)
    assert error(*by_mse(seen, grid)) <= 1.05 * best
    assert error(*by_mse(seen, grid)) <= error(seen.low, seen.high)


@grid_names
def test_mse_clips_where_one_value_costs_all_others_more(grid):
    values = torch.randn(400000, generator=torch.Generator().manual_seed(0))
    values[7] = 60.0
    seen, _ = seen_in(values)
    _, high = by_mse(seen, grid)
    assert 4 < high < 40


@more_grids
@given(st.lists(numbers, min_size=2, max_size=2))
def test_grids_equal_affine(grid, bounds):
    low, high = sorted(bounds)
    made = affine(low, high, grid.dtype, symmetric=grid.symmetric, bits=grid.bits)
    scales, zeros = grids(np.array([low]), np.array([high]), grid)
    assert (float(scales[0]), int(zeros[0])) == (made.scale, made.zero_point)


# Percentile and average


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("kind", ["signed", "relu", "silu"])
def test_percentile_holds_what_it_says_and_one_bin_less_does_not(kind, percent):
    values = heavy(kind)
    seen, _ = seen_in(values)
    for grid in GRIDS:
        low, high = by_percentile(seen, grid, percent)
        inside = int(((values >= low) & (values <= high)).sum())
        assert inside >= percent / 100 * values.numel() - 1e-9
        if grid.symmetric or kind == "relu":
            less = high - seen.width - 1e-9
            assert int((values.abs() <= less).sum()) < percent / 100 * values.numel()
        else:
            spare = (1 - percent / 100) / 2 * values.numel()
            assert int((values > high).sum()) <= spare < int((values > high - seen.width - 1e-9).sum())
    assert by_percentile(seen, GRIDS[0], 100.0) == (seen.low, seen.high)


def test_a_percentile_out_of_bounds_is_refused():
    seen, _ = seen_in(torch.ones(3))
    for wrong in (0.0, -1.0, 100.1):
        with pytest.raises(ValueError, match="a percentile lies above 0 and not above 100, got"):
            by_percentile(seen, GRIDS[0], wrong)


def test_average_is_the_mean_over_examples_in_any_order():
    torch.manual_seed(0)
    examples = list(torch.randn(50, 300) * torch.logspace(-6, 6, 50)[:, None])
    lows, highs = ([float(bound) for bound in column] for column in zip(*(e.aminmax() for e in examples), strict=True))
    found = [mean_of(seen) for e in examples if (seen := range_of(e))]
    forth, back = found[0], found[-1]
    for one in found[1:]:
        forth = forth.merge(one)
    for one in reversed(found[:-1]):
        back = one.merge(back)
    assert forth == back == MeanRange.model_validate_json(forth.model_dump_json())
    assert forth.bounds == pytest.approx((math.fsum(lows) / 50, math.fsum(highs) / 50), rel=1e-15)


# What every method keeps to


@given(st.lists(numbers, min_size=1, max_size=50), st.sampled_from([*GRIDS, *FEW]), st.sampled_from(METHODS))
def test_every_range_makes_a_grid_that_rounds_as_it_should(values, grid, method):
    x = torch.tensor(values)
    seen, means = seen_in(x)
    low, high = calibrated(method, seen, means, grid)
    assert seen.low <= low <= high <= seen.high
    made = affine(low, high, grid.dtype, symmetric=grid.symmetric, bits=grid.bits)
    assert 0 < made.scale < math.inf
    plain = x.double().numpy()
    once = rounded(plain, low, high, grid)
    assert np.array_equal(rounded(once, low, high, grid), once)
    inside = (plain >= made.low) & (plain <= made.high)
    assert (np.abs(plain - once)[inside] <= made.scale / 2 * (1 + 1e-9)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [0.0, -0.0, 0.0],
        [5.0] * 9,
        [-5.0] * 9,
        [SMALLEST],
        [-SMALLEST, SMALLEST],
        [3.4e38, -3.4e38],
        [0.0, 1e-40],
    ],
)
def test_degenerate_tensors_have_positive_finite_scales(values, method):
    seen, means = seen_in(torch.tensor(values))
    for grid in GRIDS:
        low, high = calibrated(method, seen, means, grid)
        assert 0 < affine(low, high, grid.dtype, symmetric=grid.symmetric).scale < math.inf
        if set(values) <= {5.0, -5.0}:
            assert (low, high) == (values[0], values[0])


def test_means_of_values_that_are_not_finite_are_refused():
    broken = range_of(torch.tensor([1.0, math.inf]))
    assert broken is not None
    with pytest.raises(ValueError, match="a mean needs finite bounds"):
        mean_of(broken)
