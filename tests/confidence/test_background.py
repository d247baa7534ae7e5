"""A query's background: statistics of a distribution, not of a collection's size or order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.confidence.background import (
    REFERENCE_SIZE,
    log_mean_exp,
    query_background,
    reference_rank,
)


@given(st.integers(0, 1000), st.integers(1, 400))
def test_background_is_what_sorting_would_say_in_any_order(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-5, 3, (3, n))
    background = query_background(rng.permuted(logits, axis=1))
    descending = -np.sort(-logits, axis=1)
    np.testing.assert_array_equal(background.top_1_percent, descending[:, -(-n // 100) - 1])
    np.testing.assert_array_equal(background.top_5_percent, descending[:, -(-n // 20) - 1])
    np.testing.assert_allclose(background.evidence, np.log(np.exp(logits).mean(axis=1)))
    np.testing.assert_allclose(background.spread, logits.std(axis=1), atol=1e-12)


def test_evidence_does_not_overflow() -> None:
    assert log_mean_exp(np.array([2000.0, 2000.0])) == 2000.0
    assert log_mean_exp(np.array([-2000.0, -2000.0])) == -2000.0


def test_a_sample_hardly_moves_when_items_come_and_go() -> None:
    ids = [f"photos/{n}.jpg" for n in range(20_000)]
    rank = reference_rank(ids)
    chosen = set(np.argsort(rank)[:REFERENCE_SIZE].tolist())
    fewer = set(np.argsort(rank[:19_000])[:REFERENCE_SIZE].tolist())
    assert len(chosen - fewer) < 0.08 * REFERENCE_SIZE
    # uniform: as many from the first half as from the second
    assert abs(np.mean([at < 10_000 for at in chosen]) - 0.5) < 0.05


def test_a_rank_is_the_same_on_every_machine() -> None:
    assert reference_rank(["a", "photos/ä.jpg"]).tolist() == [
        3405396810240292928,
        5661226885576460409,
    ]
    assert reference_rank([]).shape == (0,)


@pytest.mark.parametrize("logits", [np.zeros(3), np.zeros((2, 0)), [[np.nan]], [[np.inf]]])
def test_logits_without_meaning_are_refused(logits: object) -> None:
    with pytest.raises(ValueError, match="logit"):
        query_background(logits)  # type: ignore[arg-type]  # that is the point
