"""The exact knapsack, against trying everything."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lissom.functional.allocation import Option, allocate
from lissom.functional.knapsack import optimum

numbers = st.one_of(st.integers(0, 6).map(float), st.floats(0, 10, allow_subnormal=False))
items = st.lists(st.lists(st.builds(Option, numbers, numbers), min_size=1, max_size=4), min_size=1, max_size=5)


def least(options: dict[str, list[Option]], budget: float) -> float | None:
    """By enumeration, no loss where nothing fits."""
    losses = [
        sum(o.loss for o in choice)
        for choice in itertools.product(*options.values())
        if sum(o.cost for o in choice) <= budget
    ]
    return min(losses, default=None)


@given(items, st.floats(0, 40))
@example([[Option(0.0, 1.0), Option(1e-150, 0.0)]], 0.0)
def test_no_other_choice_within_the_budget_loses_less(given_items, budget):
    options = {f"layer {i}": own for i, own in enumerate(given_items)}
    found, wanted = optimum(options, budget), least(options, budget)
    # Sums in another order may fall to the other side of the budget by a rounding.
    near = least(options, budget * (1 + 1e-9))
    if found is None:
        assert wanted is None
        return
    assert list(found) == list(options)
    assert sum(options[name][i].cost for name, i in found.items()) <= budget * (1 + 1e-9)
    loss = sum(options[name][i].loss for name, i in found.items())
    assert near is not None
    assert loss >= near - 1e-9
    if wanted is not None:
        assert loss <= wanted + 1e-9


def test_it_beats_the_hull_where_the_hull_is_not_enough():
    options = {"a": [Option(0, 10), Option(5, 4), Option(9, 0)], "b": [Option(0, 10), Option(5, 5.5), Option(8, 0)]}
    for budget in range(18):
        greedy, exact = allocate(options, budget), optimum(options, budget)
        assert greedy is not None
        assert exact is not None
        losses = [sum(options[n][i].loss for n, i in found.items()) for found in (greedy, exact)]
        assert losses[1] == least(options, budget) <= losses[0]


def test_a_network_of_two_hundred_layers_takes_less_than_a_second():
    random = np.random.default_rng(0)
    options = {}
    for layer in range(200):
        size, pain = random.lognormal(10, 1.5), random.lognormal(0, 2)
        options[str(layer)] = [Option(size * bits / 32, pain * 4.0**-bits) for bits in (32, 16, 8, 4, 2)]
    budget = sum(own[2].cost for own in options.values())
    started = time.perf_counter()
    found = optimum(options, budget)
    assert time.perf_counter() - started < 5.0  # 0.1 s on an idle core
    greedy = allocate(options, budget)
    assert found is not None
    assert greedy is not None
    assert sum(options[n][i].loss for n, i in found.items()) <= sum(options[n][i].loss for n, i in greedy.items())


@pytest.mark.parametrize("options", [{}, {"a": [Option(1.0, 2.0)]}])
def test_nothing_to_choose(options):
    assert optimum(options, 1.0) == dict.fromkeys(options, 0)
    if options:
        assert optimum(options, 0.5) is None
