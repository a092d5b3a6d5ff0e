"""A1: every arm has the same epochs and ends at the same cost."""

from __future__ import annotations

import math

import pytest
from benchmarks.experiments import a1

import lissom


def test_every_arm_trains_as_long_and_cuts_as_much():
    for name, steps in a1.arms(a1.EPOCHS, a1.RATIO).items():
        assert sum(step.epochs for step in steps if isinstance(step, lissom.Finetune)) == a1.EPOCHS, name
        ratios = [step.macs_ratio or 1.0 for step in steps if isinstance(step, lissom.Prune)]
        assert math.prod(ratios) == pytest.approx(1.0 if name == "not cut" else a1.RATIO), name
        if name == a1.DEFAULT:
            assert len(ratios) == 4
            assert all(1 - 1 / ratio <= 0.3 for ratio in ratios)


def test_behind_counts_only_what_exceeds_the_spread_of_seeds():
    assert a1.behind([90.0, 90.2], [90.3, 90.5], "x").value == pytest.approx(0.3 - 2 * 0.1 * 2**0.5, abs=1e-3)
    assert a1.behind([90.0, 91.0], [90.5, 91.5], "x").value == 0
    assert a1.behind([90.0], [91.0], "x").value == 1
