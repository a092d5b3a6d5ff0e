"""Expected calibration error, against numpy's histogram of confidences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.functional.confidence import calibration_error


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(1e-3, 1.0), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_it_is_the_weighted_gap_of_each_interval(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = (np.array(one, dtype=np.float64) for one in zip(*answers, strict=True))
    edges = np.arange(1, bins) / bins
    place = np.digitize(confidence * bins, edges * bins, right=True)
    gaps = [
        np.mean(place == b) * abs(right[place == b].mean() - confidence[place == b].mean()) for b in np.unique(place)
    ]
    found = calibration_error(torch.as_tensor(confidence), torch.as_tensor(right).bool(), bins)
    assert found == pytest.approx(sum(gaps), abs=1e-12)


def test_sure_and_right_is_calibrated_sure_and_wrong_is_not() -> None:
    sure = torch.full((10,), 0.95)
    assert calibration_error(sure, torch.tensor([True] * 19 + [False])[:10]) == pytest.approx(0.05)
    assert calibration_error(sure, torch.zeros(10, dtype=torch.bool)) == pytest.approx(0.95)
    assert calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == 0.0
