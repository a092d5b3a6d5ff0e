"""The Gaussian process: against scikit-learn's, and against conditioning a joint normal distribution by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lissom.functional import gaussian


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return random.normal(size=(12, 3)), random.normal(scale=0.2, size=12), random.normal(size=(5, 3))


def test_it_is_that_of_a_peer(data):
    process = pytest.importorskip("sklearn.gaussian_process")
    from sklearn.gaussian_process.kernels import RBF, DotProduct

    rows, values, asked = data
    fitted = gaussian.fit(rows, values, prior=0.1)
    peer = process.GaussianProcessRegressor(DotProduct(1e-9) + RBF(1.0), alpha=gaussian.NOISE, optimizer=None)
    mean, deviation = peer.fit(rows, values).predict(asked, return_std=True)
    found, unsure = fitted.predict(asked)
    assert found == pytest.approx(mean)
    assert unsure == pytest.approx(deviation * np.sqrt(fitted.variance))


def test_the_amplitude_is_between_the_prior_and_what_was_seen(data):
    rows, values, _ = data
    whole = gaussian.kernel(rows, rows) + gaussian.NOISE * np.eye(len(rows))
    seen = values @ np.linalg.solve(whole, values) / len(rows)
    weight = gaussian.PRIOR_ROWS / (gaussian.PRIOR_ROWS + len(rows))
    assert gaussian.fit(rows, values, prior=0.1).variance == pytest.approx(weight * 0.01 + (1 - weight) * seen)


def test_it_is_unsure_away_from_what_was_measured(data):
    rows, values, _ = data
    fitted = gaussian.fit(rows, values, prior=0.1)
    near, far = fitted.predict(rows)[1].max(), fitted.predict(rows + 9.0)[1].min()
    assert near < 0.3 * far
    nothing = gaussian.fit(np.zeros((0, 3)), np.zeros(0), prior=0.1)
    assert nothing.predict(np.zeros((1, 3)))[0] == 0.0
    assert nothing.predict(np.zeros((1, 3)))[1] == pytest.approx(0.1)
