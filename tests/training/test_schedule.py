"""The learning rate against its formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import net, settings, task

from lissom.training.finetune import finetune
from lissom.training.schedule import learning_rate


def test_without_warm_up_it_is_half_a_cosine() -> None:
    rates = [learning_rate(t, 8, 0.4, 0.0) for t in range(8)]
    assert rates == pytest.approx([0.2 * (1 + math.cos(math.pi * t / 8)) for t in range(8)])
    assert rates[0] == 0.4
    assert rates[4] == pytest.approx(0.2)


def test_the_warm_up_is_linear_and_reaches_the_peak() -> None:
    rates = [learning_rate(t, 20, 1.0, 0.2) for t in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[4 + 8] == pytest.approx(0.5)


@given(st.integers(1, 300), st.floats(1e-4, 10), st.floats(0, 0.99))
def test_it_is_positive_never_above_the_peak_and_falls_after_the_warm_up(total: int, peak: float, warm: float) -> None:
    rates = [learning_rate(t, total, peak, warm) for t in range(total)]
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    falling = rates[round(warm * total) :]
    assert falling == sorted(falling, reverse=True)
    assert learning_rate(total + 5, total, peak, warm) == rates[-1]


def test_the_loop_follows_it() -> None:
    history = finetune(net(), task(), settings(epochs=4, learning_rate=0.3, warmup=0.25)).history
    wanted = [learning_rate(3 * epoch + 2, 12, 0.3, 0.25) for epoch in range(4)]
    assert [epoch.learning_rate for epoch in history.epochs] == wanted


def test_unset_it_depends_on_the_optimizer() -> None:
    assert settings(learning_rate=None).rate == 0.01
    assert settings(learning_rate=None, optimizer="adamw").rate == 3e-4
