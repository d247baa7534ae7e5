"""The ridge fit against independent implementations, and the covariance against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from prolip_search.confidence.logistic import Pull, fit_logistic, sigmoid


def problem(seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (n, 3))
    labels = rng.random(n) < sigmoid(features @ np.array([2.0, -1.0, 0.0]) - 0.5)
    labels[:2] = True, False
    return features, labels, rng.uniform(0.1, 5, n)


@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 10.0]))
def test_without_a_pull_it_is_scikit_learns_fit(seed: int, penalty: float) -> None:
    features, labels, weights = problem(seed)
    ours = fit_logistic(features, labels, penalty=penalty, weights=weights)
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(
        features, labels, sample_weight=weights / weights.mean()
    )
    np.testing.assert_allclose(ours.weights, theirs.coef_[0], atol=1e-6)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=1e-6)


@given(st.integers(0, 10_000), st.booleans())
def test_with_a_pull_it_is_the_minimum_of_its_own_loss(seed: int, one_class: bool) -> None:
    features, labels, weights = problem(seed, n=20)
    if one_class:
        labels[:] = True
    pull = Pull(np.array([1.0, -2.0, 0.5]), 3.0, 0.3)
    ours = fit_logistic(features, labels, penalty=1.0, weights=weights, pull=pull)

    def loss(theta: np.ndarray) -> float:
        z = features @ theta[:3] + theta[3]
        fit = (weights / weights.mean()) @ (np.logaddexp(0, z) - labels * z)
        distance = theta - np.array([*pull.weights, pull.intercept])
        return float(fit + 0.5 * np.array([1, 1, 1, 0.3]) @ distance**2)

    found = optimize.minimize(loss, np.zeros(4), tol=1e-12)
    assert loss(np.array([*ours.weights, ours.intercept])) <= found.fun + 1e-9


def test_separable_labels_and_constant_features_have_a_fit() -> None:
    features = np.stack([np.linspace(-1, 1, 20), np.zeros(20)], axis=1)
    fit = fit_logistic(features, features[:, 0] > 0, penalty=0.1)
    assert np.isfinite(fit.weights).all()
    assert np.isfinite(fit.covariance).all()
    assert fit.weights[0] > 0


def test_the_covariance_is_that_of_fits_to_new_queries() -> None:
    """Rows of a query share a shift: what counts is how many queries there are, not rows."""
    truth, n_queries, per_query = np.array([1.5, -0.5]), 60, 5

    def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        query = np.repeat(np.arange(n_queries), per_query)
        features = rng.normal(0, 1, (len(query), 2))
        shift = rng.normal(0, 1.5, n_queries)[query]
        return features, rng.random(len(query)) < sigmoid(features @ truth + shift), query

    fits = []
    for seed in range(200):
        features, labels, query = draw(seed)
        fits.append(fit_logistic(features, labels, penalty=0.1, groups=query))
    estimates = np.array([[*fit.weights, fit.intercept] for fit in fits])
    deviation = np.array([np.sqrt(np.diag(fit.covariance)) for fit in fits])
    np.testing.assert_allclose(deviation.mean(axis=0), estimates.std(axis=0), rtol=0.2)
    inside = np.abs(estimates - estimates.mean(axis=0)) <= 1.645 * deviation
    assert ((inside.mean(axis=0) > 0.84) & (inside.mean(axis=0) < 0.96)).all()
    features, labels, query = draw(0)
    alone = fit_logistic(features, labels, penalty=0.1)
    assert fits[0].covariance[2, 2] > 1.5 * alone.covariance[2, 2]


def test_labels_of_one_class_or_none_are_refused() -> None:
    for labels in (np.ones(5, bool), np.zeros(5, bool), np.ones(0, bool)):
        with pytest.raises(ValueError, match="both labels"):
            fit_logistic(np.zeros((len(labels), 1)), labels, penalty=1.0)


def test_sigmoid_neither_overflows_nor_warns() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([-1e4, 0.0, 1e4])), [0.0, 0.5, 1.0])
