"""Uncertainty against failure, length, parts and generality, held against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation import estimates
from prolip_search.train.evaluation.uncertainty import (
    Spread,
    agreement,
    binned,
    chain_links,
    inclusion_share,
    length_correlation,
    lengths,
    pearson,
    reduction,
)
from tests.conftest import make_gaussians

AXES = np.eye(4, dtype=np.float32)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "N_RESAMPLES", 200)


def gaussians(mean: np.ndarray, log_variance: list[float]) -> Gaussians:
    """One log-variance for all dimensions of a row."""
    return Gaussians(mean, np.repeat(np.array(log_variance)[:, None], mean.shape[1], axis=1))


@pytest.mark.parametrize("n", [10, 57, 1000])
def test_bins_and_correlations_are_those_of_numpy_and_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    u = rng.gamma(2.0, size=n)
    metric = (rng.random(n) < 1 / (1 + u)).astype(float)
    found = binned("recall", u, metric)
    parts = np.array_split(np.argsort(u), 10)
    by_hand = [metric[part].mean() for part in parts]
    np.testing.assert_allclose(found.metric, by_hand)
    np.testing.assert_allclose(found.uncertainty, [u[part].mean() for part in parts])
    assert (np.diff(found.uncertainty) > 0).all()
    if n > 10:
        assert found.r.value == pytest.approx(stats.pearsonr(np.arange(10), by_hand).statistic)
        assert found.rho.value == pytest.approx(stats.spearmanr(u, metric).statistic)
    assert found.n_items == n


def test_an_ideal_uncertainty_scores_minus_one_and_a_random_one_nothing() -> None:
    rng = np.random.default_rng(3)
    u = rng.random(4000)
    ideal = binned("ideal", u, rng.random(4000) < 1 - u)
    assert ideal.r.value < -0.99
    assert ideal.r.high < -0.97
    random = binned("random", u, rng.random(4000) < 0.5)
    assert abs(random.rho.value) < 0.05
    assert random.rho.low < 0 < random.rho.high
    assert random.r.high - random.r.low > 0.5  # ten bins say little where there is nothing


def test_a_metric_that_never_changes_has_no_correlation() -> None:
    found = binned("all right", np.arange(20), np.ones(20))
    assert math.isnan(found.r.value)
    assert math.isnan(found.rho.value)
    assert found.metric.tolist() == [1.0] * 10


def test_captions_of_one_photo_are_drawn_together() -> None:
    rng = np.random.default_rng(4)
    u, metric = rng.random(100), rng.random(100)
    owners = np.repeat(np.arange(100), 5)
    alone = binned("photos", u, metric)
    copied = binned("captions", np.repeat(u, 5), np.repeat(metric, 5), owners)
    assert copied.rho.value == pytest.approx(alone.rho.value)
    assert copied.rho.high - copied.rho.low == pytest.approx(
        alone.rho.high - alone.rho.low, rel=0.1
    )


def test_nine_items_do_not_fill_ten_bins() -> None:
    with pytest.raises(TrainingDataError, match="9 items cannot fill 10 bins"):
        binned("recall", np.arange(9), np.arange(9))


def test_pearson_is_scipys() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 40))
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert math.isnan(pearson(x, np.zeros(40)))


def test_quartiles_are_taken_by_length() -> None:
    texts = ["a dog .", "two dogs", "a big red dog", "dog"]
    found = lengths("captions", texts, [3.0, 5.0, 1.0, 9.0])
    assert [(row.n_words, row.n_texts) for row in found.rows] == [(1, 1), (2, 2), (4, 1)]
    assert found.rows[1].quartiles == (3.5, 4.0, 4.5)
    assert found.rho.value == pytest.approx(
        stats.spearmanr([2, 2, 4, 1], [3.0, 5.0, 1.0, 9.0]).statistic
    )


def test_uncertainty_and_inclusion_are_counted_by_row() -> None:
    narrow = gaussians(AXES, [-6, -6, -6, -6])
    wide = gaussians(AXES, [-4, -4, -4, -8])
    assert agreement(narrow, wide) == inclusion_share(narrow, wide) == 0.75
    assert agreement(narrow, narrow) == inclusion_share(narrow, narrow) == 0
    found = reduction("all but one", narrow, wide)
    assert found.more_uncertain.value == found.included.value == 0.75
    assert found.growth.value == pytest.approx(math.exp((2 + 2 + 2 - 2) / 4), rel=1e-5)
    assert found.growth.low < found.growth.value < found.growth.high
    assert found.n_pairs == 4


def test_longer_and_more_certain_correlate_negatively_over_all_sets_together() -> None:
    texts = [["a dog runs .", "a dog ."], ["dog", "a"]]
    sets = [gaussians(AXES[:2], [-8, -7]), gaussians(AXES[2:], [-6, -5])]
    assert length_correlation(texts, sets) == pytest.approx(-0.949, abs=1e-3)


def test_links_are_counted_within_chains_only() -> None:
    # Two chains: general, middle, special, all right; then general narrower than special.
    phrases = gaussians(AXES[[0, 0, 0, 1, 1]], [-3, -5, -7, -9, -2])
    found = chain_links(phrases, [3, 2])
    assert (found.n_chains, found.n_links, found.by_u, found.by_h) == (2, 3, 2, 2)
    figures = found.to_json()
    assert figures["u"]["share"] == pytest.approx(2 / 3)
    low, high = figures["H"]["interval"]
    assert low == pytest.approx(0.2077, abs=1e-4)  # Wilson's, from a table
    assert high == pytest.approx(0.9385, abs=1e-4)
    with pytest.raises(TrainingDataError, match="two phrases"):
        chain_links(phrases, [1, 1, 1, 1, 1])


def test_the_spread_is_that_of_the_values() -> None:
    u = make_gaussians(500, 6, 0).uncertainty
    found = Spread.of(u)
    assert found.mean == pytest.approx(float(u.mean()), rel=1e-5)
    assert found.quantiles[0] == pytest.approx(float(u.min()))
    assert found.quantiles[2] == pytest.approx(float(np.median(u)))
