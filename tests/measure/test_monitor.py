"""Counting in service: exact counts, the interval against its definition, drift that is and is not one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import DataError, UsageError
from lissom.measure.monitor import Monitor, Watched, Z, lower_bound


def watching(**more: float) -> Monitor:
    return Monitor(inputs=(Watched(name="x", low=-1.0, high=1.0),), outputs=(Watched(name="y"),), **more)


def test_values_are_counted_over_all_calls() -> None:
    seen = watching()
    seen.see_([np.array([[0.5, 2.0, -3.0, np.nan]], np.float32)], [np.array([[7.0]], np.float32)])
    seen.see_([np.array([[1.0, -1.0, np.inf, 0.0]], np.float32)], [np.array([[-2.0]], np.float32)])
    x, y = seen.report()
    assert (x.calls, x.values, x.not_finite, x.outside, x.lowest, x.highest) == (2, 8, 2, 4, -3.0, 2.0)
    assert x.share == 0.5
    assert x.drifted
    assert (y.values, y.lowest, y.highest, y.outside, y.at_least, y.drifted) == (2, -2.0, 7.0, None, None, False)


def test_the_same_data_are_no_drift_and_shifted_data_are() -> None:
    rng, calm, shifted = np.random.default_rng(0), watching(), watching()
    for _ in range(5):
        values = rng.normal(0, 0.25, (64, 32)).astype(np.float32)
        calm.see_([values])
        shifted.see_([values + 0.75])
    assert not calm.report()[0].drifted
    assert shifted.report()[0].drifted


def test_few_values_do_not_make_a_drift() -> None:
    seen = watching()
    seen.see_([np.array([2.0, 2.0] + [0.0] * 998, np.float32)])  # twice the share allowed, by chance
    assert not seen.report()[0].drifted


@given(st.integers(1, 5000), st.data())
def test_the_bound_solves_wilsons_equation(values: int, data: st.DataObject) -> None:
    outside = data.draw(st.integers(0, values))
    bound, share = lower_bound(outside, values), outside / values
    assert 0.0 <= bound <= share + 1e-12
    assert (bound == 0.0) == (outside == 0)
    if bound > 0:  # the p0 at which the observed share is z standard deviations away
        assert share - bound == pytest.approx(Z * math.sqrt(bound * (1 - bound) / values), abs=1e-9)


def test_integer_inputs_are_counted_and_nothing_more() -> None:
    seen = Monitor(inputs=(Watched(name="ids"),), outputs=())
    seen.see_([np.array([[1, 2, 3]])])
    found = seen.report()[0]
    assert (found.calls, found.values, found.lowest, found.drifted) == (1, 3, None, False)


def test_the_report_is_json(tmp_path: Path) -> None:
    seen = watching()
    seen.see_([np.zeros((2, 2), np.float32)])
    seen.write(tmp_path / "drift.json")
    assert json.loads((tmp_path / "drift.json").read_text()) == [one.model_dump() for one in seen.report()]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match=r"has 1 inputs \(x\), got 2 arrays"):
        watching().see_([np.zeros(1), np.zeros(1)])
    with pytest.raises(UsageError, match=r"in \[0, 1\), got 1"):
        watching(allowed=1.0)
    with pytest.raises(ValueError, match="got 3 of 2"):
        lower_bound(3, 2)
