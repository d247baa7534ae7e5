"""How FAISS is asked: single queries scan, batches are matrix products."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.indexes.csd_index import (
    BLAS_FROM_QUERIES,
    FlatIndex,
    augmented_queries,
    augmented_rows,
    best_rows,
    rounding_of,
)
from tests.conftest import make_gaussians


@pytest.mark.parametrize("dim", [7, 768])
def test_matrix_products_begin_at_the_same_number_of_queries_whatever_the_width(dim: int) -> None:
    stored = make_gaussians(50, dim, 1)
    index = FlatIndex.build(augmented_rows(stored.mean, stored.uncertainty))
    query = augmented_queries(make_gaussians(1, dim, 2).mean, with_uncertainty=True)
    index.search(query, 3, None)
    width = query.shape[1]
    # FAISS multiplies matrices where queries × width reaches its threshold.
    assert (BLAS_FROM_QUERIES - 1) * width < faiss.cvar.distance_compute_blas_threshold
    assert BLAS_FROM_QUERIES * width >= faiss.cvar.distance_compute_blas_threshold


@pytest.mark.parametrize("n_queries", [1, BLAS_FROM_QUERIES, 64])
@pytest.mark.parametrize("spread", [(-12.0, -8.0), (-3.0, 3.0)])
def test_scores_err_by_no_more_than_they_say(n_queries: int, spread: tuple[float, float]) -> None:
    stored = make_gaussians(3000, 512, 1, spread=spread)
    rows = augmented_rows(stored.mean, stored.uncertainty)
    queries = augmented_queries(make_gaussians(n_queries, 512, 2).mean, with_uncertainty=True)
    scores, found = FlatIndex.build(rows).search(queries, 40, None)
    for query, some, at in zip(queries, scores, found, strict=True):
        products = rows[at].astype(np.float64) * query.astype(np.float64)
        bound = rounding_of(rows.shape[1]) * np.abs(products).sum(1)
        assert (np.abs(some - products.sum(1)) <= bound).all()


def test_the_scores_of_all_rows_are_those_of_a_search() -> None:
    stored = make_gaussians(300, 20, 1)
    index = FlatIndex.build(augmented_rows(stored.mean, stored.uncertainty))
    query = augmented_queries(make_gaussians(1, 20, 2).mean, with_uncertainty=True)
    scores, rows = index.search(query, 300, None)
    np.testing.assert_allclose(index.scores(query[0])[rows[0]], scores[0], atol=1e-6)


@given(
    n=st.integers(1, 9000),
    share=st.floats(0.0, 1.0),
    n_levels=st.sampled_from([1, 3, 50, 10**6]),
    is_sorted=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_best_rows_are_those_of_a_sort(
    n: int, share: float, n_levels: int, is_sorted: bool, seed: int
) -> None:
    k = max(1, int(share * n))
    scores = np.random.default_rng(seed).integers(0, n_levels, n).astype(np.float32)
    if is_sorted:  # so that every so many are no fair sample
        scores.sort()
    best = best_rows(scores, k)
    np.testing.assert_array_equal(best, np.argsort(-scores, kind="stable")[:k])
