"""Each measure against a case worked by hand or an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prolip_search import metrics


def test_rank_is_that_of_the_best_placed_positive() -> None:
    distances = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [1, 2, 3, 4]]
    positives = [[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(metrics.first_positive_ranks(distances, positives), [2, 4, 5])


def test_a_constant_distance_earns_nothing() -> None:
    positives = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(metrics.first_positive_ranks(np.zeros((4, 4)), positives), 4)


def test_recall_counts_ranks_within_k() -> None:
    ranks = [1, 1, 3, 6, 11]
    assert [metrics.recall_at_k(ranks, k) for k in (1, 5, 10, 11)] == [0.4, 0.6, 0.8, 1.0]
    assert metrics.rsum([ranks, [1, 1]]) == pytest.approx(100 * (0.4 + 0.6 + 0.8) + 300)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_equals_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(side) for side in zip(*pairs, strict=True))
    ours = metrics.spearman(x, y)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert ours == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert np.isnan(ours)


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_interval_equals_scipy(n: int, share: float) -> None:
    n_right = round(share * n)
    interval = stats.binomtest(n_right, n).proportion_ci(method="wilson")
    assert metrics.wilson_interval(n_right, n) == pytest.approx(tuple(interval), abs=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.first_positive_ranks([[1, 2]], [[True]]),
        lambda: metrics.recall_at_k([1], 0),
        lambda: metrics.recall_at_k([], 1),
        lambda: metrics.spearman([1, 2], [1, 2, 3]),
        lambda: metrics.wilson_interval(3, 2),
    ],
)
def test_input_without_meaning_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        call()  # type: ignore[operator]  # the lambdas above
