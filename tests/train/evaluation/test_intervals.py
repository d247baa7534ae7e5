"""Bootstrap intervals: they hold what they promise, and know what a cluster is."""

from __future__ import annotations

import numpy as np
import pytest

from prolip_search.metrics import bootstrap_interval
from prolip_search.train.evaluation.intervals import clustered_means


def test_it_is_the_bootstrap_of_whole_groups() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 300)
    values = rng.normal(groups / 30, 1)
    low, high = clustered_means(values[:, None], groups, n_resamples=4000).interval()
    expected = bootstrap_interval(lambda rows: float(values[rows].mean()), groups, n_resamples=4000)
    assert (low[0], high[0]) == pytest.approx(expected, abs=0.02)


def test_repeating_rows_inside_clusters_makes_no_interval_narrower() -> None:
    values = np.random.default_rng(1).normal(size=(100, 1))
    once = clustered_means(values, np.arange(100)).draws.std()
    five_times = clustered_means(np.repeat(values, 5, axis=0), np.repeat(np.arange(100), 5))
    assert five_times.draws.std() == pytest.approx(once, rel=0.05)
    assert clustered_means(np.repeat(values, 5, 0), np.arange(500)).draws.std() < 0.6 * once


@pytest.mark.parametrize("seed", range(3))
def test_of_ten_comparisons_without_difference_few_sets_have_any(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alone = together = 0
    for _ in range(100):
        means = clustered_means(rng.normal(size=(80, 10)), np.arange(80), n_resamples=300)
        for name, (low, high) in {
            "alone": means.interval(),
            "together": means.simultaneous_interval(),
        }.items():
            any_real = bool(((low > 0) | (high < 0)).any())
            alone += name == "alone" and any_real
            together += name == "together" and any_real
    assert together <= 15  # 5 expected
    assert alone >= 25  # 40 expected: why simultaneous intervals are needed


def test_rows_that_are_not_numbers_are_of_no_column() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 5.0]])
    means = clustered_means(values, [0, 1, 2])
    assert means.value.tolist() == [2.0, 5.0]


def test_a_certain_mean_has_no_width() -> None:
    low, high = clustered_means(np.ones((9, 2)), np.arange(9)).simultaneous_interval()
    assert low.tolist() == high.tolist() == [1.0, 1.0]


def test_input_without_meaning_is_refused() -> None:
    for values, clusters in ((np.ones(3), [0, 1, 2]), (np.ones((0, 1)), []), ([[1.0]], [0, 1])):
        with pytest.raises(ValueError, match="Q >= 1 rows"):
            clustered_means(values, clusters)
