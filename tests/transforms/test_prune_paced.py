"""The bisection that meets a measured latency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import GoalError
from lissom.transforms.paced import least_cut

REACH = "Out of reach: the fastest that was measured is {fastest} times faster."


def silent(_: float) -> None:
    pass


@given(wish=st.floats(1.1, 3.0), power=st.floats(0.5, 1.0))
def test_the_wish_is_met_with_little_more_than_is_needed(wish: float, power: float) -> None:
    asked: list[float] = []

    def faster_at(ratio: float) -> float:
        asked.append(ratio)
        return ratio**power

    found = least_cut(wish, faster_at, silent, REACH)
    needed = wish ** (1 / power)
    assert found in asked
    assert found**power >= wish
    assert found <= needed * 1.35


def test_steps_in_the_latency_are_no_trap() -> None:
    assert 2.0 <= least_cut(1.5, lambda ratio: 1.0 if ratio < 2.0 else 1.8, silent, REACH) <= 2.3


def test_what_cannot_be_cut_is_not_asked_for_again() -> None:
    found = least_cut(1.5, lambda ratio: None if ratio > 2.2 else ratio * 0.8, silent, REACH)
    assert 1.875 <= found <= 2.2


@pytest.mark.parametrize("limit", [1.5, 100.0])
def test_out_of_reach_says_how_far_it_got(limit: float) -> None:
    with pytest.raises(GoalError, match=r"the fastest that was measured is 1\.\d\d times faster"):
        least_cut(3.0, lambda ratio: None if ratio > limit else min(ratio, 1.4), silent, REACH)
