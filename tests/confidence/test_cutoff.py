"""The line under the results: the promise of conformal prediction, and what it adapts to."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prolip_search.confidence.cutoff import (
    LARGEST_SAMPLE,
    CutoffMode,
    conformal_rank,
    cutoff_sizes,
    fit_cutoff,
    target_scores,
)
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.fitting import fit
from prolip_search.confidence.match import MatchModel
from prolip_search.confidence.matches import match_probabilities
from tests.confidence.simulated import FINGERPRINT, seen, simulate


@given(st.integers(1, 3000), st.floats(0.5, 0.99))
def test_the_rank_is_the_smallest_that_keeps_the_promise(n: int, coverage: float) -> None:
    """The coverage of the kth of n scores is distributed like Beta(k, n + 1 − k)."""
    rank = conformal_rank(n, coverage, "confident")
    if rank is None:
        assert stats.beta(n, 1).sf(coverage) < 0.9 + 1e-9
    else:
        assert stats.beta(rank, n + 1 - rank).sf(coverage) >= 0.9 - 1e-9
        assert rank == 1 or stats.beta(rank - 1, n + 2 - rank).sf(coverage) < 0.9 + 1e-9


@pytest.mark.parametrize(("mode", "least"), [("confident", 22), ("average", 9)])
def test_too_few_pairs_promise_nothing(mode: CutoffMode, least: int) -> None:
    assert conformal_rank(least - 1, 0.9, mode) is None
    assert conformal_rank(least, 0.9, mode) == least
    assert fit_cutoff(np.zeros(0)) is None
    cutoff = fit_cutoff(np.arange(least - 1.0))
    assert cutoff is not None
    assert cutoff.threshold(0.9, mode) is None


@pytest.mark.parametrize(
    ("mode", "mean", "below"), [("average", 0.9, 0.6), ("confident", 0.92, 0.12)]
)
def test_coverage_over_many_calibrations(mode: CutoffMode, mean: float, below: float) -> None:
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(400):
        cutoff = fit_cutoff(rng.normal(0, 1, 200))
        assert cutoff is not None
        threshold = cutoff.threshold(0.9, mode)
        assert threshold is not None
        covered.append(stats.norm.cdf(threshold))
    assert np.mean(covered) == pytest.approx(mean, abs=0.01)
    assert np.mean(np.array(covered) < 0.9) < below


def test_a_large_sample_of_pairs_is_kept_small() -> None:
    cutoff = fit_cutoff(np.random.default_rng(0).random(10_000))
    assert cutoff is not None
    assert cutoff.scores.size == LARGEST_SAMPLE
    assert cutoff.threshold(0.9, "average") == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90])
def test_a_coverage_outside_zero_to_one_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        conformal_rank(100, coverage, "average")
    with pytest.raises(ValueError, match="'confident' or 'average'"):
        conformal_rank(100, 0.9, "lucky")  # type: ignore[arg-type]  # that is the point


@lru_cache
def fitted(seed: int = 1) -> MatchModel:
    labels = simulate(seed=seed).labels(np.random.default_rng(seed))
    match = fit({"text": labels}, fingerprint=FINGERPRINT, n_items=300).of("text").match
    assert match is not None
    return match


@given(st.integers(0, 1000), st.floats(0.01, 0.99), st.booleans())
def test_exactly_the_items_within_the_threshold_are_kept(
    seed: int, threshold: float, calibrated: bool
) -> None:
    """An item is above the line if and only if its own score is within the threshold."""
    new = simulate(n_queries=4, n_items=60, seed=seed)
    known = match_probabilities(fitted(), new.evidence) if calibrated else None
    limit = threshold if calibrated else float(np.quantile(-new.logits, threshold))
    scores = np.stack(
        [target_scores(known, new.evidence, new.logits[:, item]) for item in range(60)], axis=1
    )
    if calibrated:
        assert ((scores >= 0) & (scores <= 1)).all()
    kept = (scores <= limit + 1e-12).sum(axis=1)
    np.testing.assert_array_equal(cutoff_sizes(known, new.evidence, limit), np.maximum(kept, 1))


def test_equal_results_are_kept_or_left_together() -> None:
    logits = np.array([[1.0, 0.0, 0.0, 0.0, -3.0]])
    new = seen(logits, np.zeros((1, 5), bool), np.array([0.1]))
    for threshold in (0.5, 0.9):
        kept = cutoff_sizes(match_probabilities(fitted(), new.evidence), new.evidence, threshold)
        assert kept[0] in (1, 4, 5)


def test_a_cut_beyond_the_candidates_is_estimated_from_the_sample() -> None:
    """4,000 items, of which the best 1,000 are seen one by one and 2,048 as a sample."""
    whole = simulate(n_queries=3, n_items=4000, seed=6)
    known = match_probabilities(fitted(), whole.evidence)
    exact = QueryEvidence(
        logits=-np.sort(-whole.logits, axis=1),
        reference=whole.evidence.reference,
        beyond=np.zeros_like(whole.evidence.beyond),
        uncertainty=whole.evidence.uncertainty,
        n_items=4000,
    )
    truth = match_probabilities(fitted(), exact)
    np.testing.assert_allclose(known.expected, truth.expected, rtol=0.05)
    threshold = 0.995
    sizes = cutoff_sizes(known, whole.evidence, threshold)
    np.testing.assert_allclose(sizes, cutoff_sizes(truth, exact, threshold), rtol=0.1, atol=20)
