"""Each measure against a case worked by hand or an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

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


def forecasts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that keep their word, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.5, 1.5, n)
    return p, rng.random(n) < p


def smooth_ece_by_definition(p: np.ndarray, y: np.ndarray) -> float:
    """The integral on a grid with a kernel that is mirrored by hand, solved by stepping σ."""
    t = (np.arange(1500) + 0.5) / 1500

    def error(sigma: float) -> float:
        kernel = sum(
            np.exp(-0.5 * ((t[:, None] - image) / sigma) ** 2)
            for image in (p, -p, 2 - p, p - 2, p + 2)
        ) / (sigma * np.sqrt(2 * np.pi))
        return float(np.abs(kernel @ (y - p) / len(p)).mean())

    sigmas = np.linspace(0.005, 0.5, 100)
    return float(sigmas[np.argmax([error(sigma) <= sigma for sigma in sigmas])])


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_smooth_ece_is_the_fixed_point_of_its_definition(shift: float) -> None:
    p, y = forecasts(400, seed=1)
    shifted = np.clip(p + shift, 0, 1)
    assert metrics.smooth_ece(shifted, y) == pytest.approx(
        smooth_ece_by_definition(shifted, y), abs=0.006
    )


def test_a_perfect_predictor_sits_at_the_floor_and_a_wrong_one_far_above() -> None:
    p, y = forecasts(10_000, seed=2)
    floor = metrics.smooth_ece_floor(p, seed=3)
    assert 0.005 < floor < 0.02
    assert metrics.smooth_ece(p, y) < 1.5 * floor
    assert metrics.smooth_ece(np.sqrt(p), y) > 10 * floor


def test_smooth_ece_of_a_constant_is_its_distance_from_the_base_rate() -> None:
    assert metrics.smooth_ece(np.full(1000, 0.2), np.arange(1000) < 500) == pytest.approx(
        0.3, abs=0.005
    )


@given(st.integers(0, 1000))
def test_a_weight_counts_like_a_repeated_row(seed: int) -> None:
    p, y = forecasts(50, seed)
    times = np.random.default_rng(seed).integers(0, 4, 50)
    times[0] = 1
    for measure in (metrics.smooth_ece, metrics.brier_score, metrics.log_loss):
        weighted = measure(p, y, times)
        assert weighted == pytest.approx(
            measure(np.repeat(p, times), np.repeat(y, times)), abs=1e-9
        )
    np.testing.assert_allclose(
        metrics.brier_parts(p, y, times),
        metrics.brier_parts(np.repeat(p, times), np.repeat(y, times)),
        atol=1e-12,
    )


@given(st.integers(0, 1000), st.booleans())
def test_brier_parts_add_up_and_use_the_isotonic_fit(seed: int, coarse: bool) -> None:
    p, y = forecasts(60, seed)
    p = np.round(p, 1) if coarse else p
    parts = metrics.brier_parts(p, y)
    assert parts.reliability - parts.resolution + parts.uncertainty == pytest.approx(
        metrics.brier_score(p, y), abs=1e-12
    )
    _, group, counts = np.unique(p, return_inverse=True, return_counts=True)
    share = np.bincount(group, weights=y) / counts
    fit = optimize.isotonic_regression(share, weights=counts).x[group]
    assert parts.reliability == pytest.approx(np.mean((p - y) ** 2) - np.mean((fit - y) ** 2))


def test_log_loss_of_a_coin_is_log_two_and_certainty_that_fails_is_finite() -> None:
    assert metrics.log_loss([0.5, 0.5], [0, 1]) == pytest.approx(np.log(2))
    assert 30 < metrics.log_loss([1.0], [0]) < 40


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_auroc_counts_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([s for s, _ in rows]), np.array([label for _, label in rows])
    ones, zeros = scores[labels], scores[~labels]
    pairs = np.sign(ones[:, None] - zeros[None]).mean() / 2 + 0.5
    assert metrics.auroc(scores, labels) == pytest.approx(pairs)


def test_auroc_of_one_label_is_not_a_number() -> None:
    assert np.isnan(metrics.auroc([0.1, 0.2], [1, 1]))


def test_risk_coverage_by_hand() -> None:
    # best first: right, wrong, right -> risks 0, 1/2, 1/3
    assert metrics.aurc([0.9, 0.5, 0.1], [1, 0, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    # the best order has the wrong one last: 0, 0, 1/3
    assert metrics.excess_aurc([0.9, 0.5, 0.1], [1, 0, 1]) == pytest.approx((1 / 2) / 3)
    assert metrics.excess_aurc([3, 2, 1], [1, 1, 0]) == 0.0
    # equal scores are as good as shuffled ones: the risk is the base rate everywhere
    assert metrics.aurc(np.zeros(10), np.arange(10) < 7) == pytest.approx(0.3)


@given(st.integers(1, 300), st.floats(0, 1))
def test_clopper_pearson_equals_scipy(n: int, share: float) -> None:
    hits = round(share * n)
    interval = stats.binomtest(hits, n).proportion_ci(method="exact")
    assert metrics.clopper_pearson(hits, n) == pytest.approx(tuple(interval), abs=1e-9)


@given(st.integers(0, 2000), st.floats(0, 1))
def test_binomial_cdf_equals_scipy(n: int, p: float) -> None:
    np.testing.assert_allclose(
        metrics.binomial_cdf(n, p), stats.binom.cdf(np.arange(n + 1), n, p), atol=1e-9
    )


def test_bootstrap_draws_whole_queries() -> None:
    """Ten copies of each row say nothing new: the interval must stay as wide."""
    p = np.random.default_rng(0).random(200)
    alone = metrics.bootstrap_interval(lambda rows: float(p[rows].mean()), np.arange(200))
    tenfold = np.repeat(p, 10)
    together = metrics.bootstrap_interval(
        lambda rows: float(tenfold[rows].mean()), np.repeat(np.arange(200), 10)
    )
    assert together == pytest.approx(alone)
    half = 1.96 * p.std() / np.sqrt(200)
    assert alone == pytest.approx((p.mean() - half, p.mean() + half), abs=0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.smooth_ece([], []),
        lambda: metrics.smooth_ece([0.5], [0.5]),
        lambda: metrics.brier_score([1.5], [1]),
        lambda: metrics.brier_score([np.nan], [1]),
        lambda: metrics.log_loss([0.5, 0.5], [1]),
        lambda: metrics.log_loss([0.5], [1], [0.0]),
        lambda: metrics.auroc([1, 2], [1]),
        lambda: metrics.aurc([], []),
        lambda: metrics.binomial_cdf(3, 1.5),
        lambda: metrics.clopper_pearson(3, 2),
        lambda: metrics.bootstrap_interval(lambda rows: 0.0, []),
        lambda: metrics.bootstrap_interval(lambda rows: float("nan"), [1, 2], n_resamples=3),
    ],
)
def test_forecasts_without_meaning_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        call()  # type: ignore[operator]  # the lambdas above
