"""The match model: what it falls back to, and what its band promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.confidence.background import QueryBackground
from prolip_search.confidence.features import MATCH_FEATURES, match_features
from prolip_search.confidence.fitting import Labels
from prolip_search.confidence.logistic import sigmoid
from prolip_search.confidence.match import MatchModel, fit_match, row_weights
from tests.confidence.simulated import simulate

N = len(MATCH_FEATURES)


def features_of(labels: Labels) -> np.ndarray:
    background, query = labels.evidence.background, labels.query
    return match_features(
        labels.logits,
        labels.evidence.uncertainty[query],
        QueryBackground(
            background.evidence[query],
            background.top_1_percent[query],
            background.top_5_percent[query],
            background.spread[query],
        ),
    )


def labels_of(n_queries: int, seed: int) -> Labels:
    return simulate(n_queries=n_queries, seed=seed).labels(np.random.default_rng(seed))


def fitted(labels: Labels) -> MatchModel:
    return fit_match(
        features_of(labels),
        labels.is_match,
        propensity=labels.propensity,
        queries=labels.query,
    )


@given(st.integers(0, 1000))
def test_the_deviation_is_that_of_the_whole_covariance(seed: int) -> None:
    """What is computed as a quadratic of ℓ is √(φ̃ᵀ Σ φ̃), row by row."""
    rng = np.random.default_rng(seed)
    root = rng.normal(0, 1, (N + 1, N + 1))
    model = MatchModel(
        rng.normal(0, 1, N), rng.uniform(0.5, 2, N), rng.normal(0, 1, N), 0.3, root @ root.T, 10
    )
    features = rng.normal(0, 2, (5, N))
    standard = np.concatenate([(features - model.center) / model.scale, np.ones((5, 1))], axis=1)
    z = standard @ np.array([*model.weights, model.intercept])
    half = 1.645 * np.sqrt(np.einsum("ni,ij,nj->n", standard, model.covariance, standard))
    low, high = model.band(features)
    np.testing.assert_allclose(model.confidence(features), sigmoid(z))
    np.testing.assert_allclose(low, sigmoid(z - half))
    np.testing.assert_allclose(high, sigmoid(z + half))


def test_the_band_holds_what_twenty_times_the_labels_say() -> None:
    better = fitted(labels_of(1200, seed=50))
    rows = features_of(labels_of(100, seed=51))
    inside = []
    for seed in range(30):
        low, high = fitted(labels_of(60, seed)).band(rows)
        truth = better.confidence(rows)
        inside.append(float(((low <= truth) & (truth <= high)).mean()))
    assert 0.85 <= np.mean(inside) <= 0.97


def test_a_row_asked_rarely_counts_for_more_but_never_rules() -> None:
    weights = row_weights(np.array([0.4, 0.1, 0.1, 0.4]))
    np.testing.assert_allclose(weights[1] / weights[0], 2.0)
    assert weights.mean() == pytest.approx(1.0)
    extreme = row_weights(np.array([1e-12, *[1.0] * 99]))
    assert extreme[0] / extreme[1] < 6
    assert extreme.mean() == pytest.approx(1.0)


def test_a_model_needs_a_row_and_one_label_alone_is_a_base_rate() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit_match(np.zeros((0, N)), np.zeros(0, bool))
    model = fit_match(np.zeros((8, N)), np.ones(8, bool))
    low, high = model.band(np.zeros((1, N)))
    assert 0.5 < low[0] < model.confidence(np.zeros((1, N)))[0] < high[0] < 1


def test_a_constant_feature_does_no_harm() -> None:
    labels = labels_of(60, seed=3)
    features = features_of(labels)
    features[:, 5] = 2.0
    model = fit_match(features, labels.is_match)
    assert np.isfinite(model.weights).all()
    assert np.isfinite(model.covariance).all()
