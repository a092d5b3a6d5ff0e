"""The cost model: exact where arithmetic is, corrected by what was measured, honest about its error."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.search import Point
from lissom.search.costs import RIDGE, UNKNOWN, _costly, fit_costs

POINTS = list(synthetic.SPACE.points())


@given(st.lists(st.sampled_from(POINTS), min_size=1))
def test_the_original_costs_one_and_macs_are_arithmetic(points):
    model = fit_costs("MACs", [], [])
    assert model.error == UNKNOWN
    assert fit_costs("latency", [], []).predict([Point()]) == pytest.approx([1.0])
    wanted = [(1 - p.depth) / (p.prune * p.rank) for p in points]
    assert model.predict(points) == pytest.approx(wanted)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 12))
def test_the_error_is_that_of_leaving_one_out(seed, count):
    random = np.random.default_rng(seed)
    points = [p for p in POINTS if p != Point()]
    chosen = [points[i] for i in random.choice(len(points), count, replace=False)]
    shares = list(random.uniform(0.1, 1.0, count))
    left_out = []
    for i in range(count):
        rest = fit_costs("latency", [*chosen[:i], *chosen[i + 1 :]], [*shares[:i], *shares[i + 1 :]])
        left_out.append(abs(shares[i] / rest.predict([chosen[i]])[0] - 1))
    assert fit_costs("latency", chosen, shares).error == pytest.approx(np.mean(left_out))


def test_the_fit_is_ridge_towards_the_prior():
    random = np.random.default_rng(0)
    chosen = [POINTS[i] for i in random.choice(len(POINTS), 20, replace=False)]
    shares = random.uniform(0.1, 1.0, 20)
    start = fit_costs("latency", [], []).theta
    rows = np.array([_costly(p) for p in chosen])
    # Ridge towards the prior is plain least squares with the prior as rows of its own.
    more = np.sqrt(RIDGE) * np.eye(len(start))
    wanted = np.linalg.lstsq(np.vstack([rows, more]), np.concatenate([np.log(shares), more @ start]), rcond=None)[0]
    assert fit_costs("latency", chosen, list(shares)).theta == pytest.approx(wanted)


def test_what_was_measured_corrects_the_prior_and_the_error_foretells_the_rest():
    random = np.random.default_rng(1)
    order = [POINTS[i] for i in random.permutation(len(POINTS))]
    order = [p for p in order if not (p.rank == 2.0 and p.depth)]
    truth = {p: synthetic.evaluate(synthetic.SPACE.recipe(p)).latency_ratio ** -0.4 for p in order}
    known, held_out = order[:25], order[25:]

    def off(model) -> float:
        return float(np.mean(np.abs(model.predict(held_out) / np.array([truth[p] for p in held_out]) - 1)))

    model = fit_costs("latency", known, [truth[p] for p in known])
    assert off(model) < 0.5 * off(fit_costs("latency", [], []))
    assert off(model) < 0.15
    assert model.error == pytest.approx(off(model), rel=0.6)
