"""Ranks of several positives, and their measures, against definitions and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from prolip_search import metrics, rankings

Case = tuple[NDArray[np.float64], list[NDArray[np.int64]]]


@st.composite
def cases(draw: st.DrawFn, *, ties: bool) -> Case:
    """Distances [Q, N] and each query's positives; with ties, of few different values."""
    n_queries, n_items = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if ties:
        distances = rng.integers(0, 4, (n_queries, n_items)).astype(float)
    else:
        distances = np.stack([rng.permutation(n_items) for _ in range(n_queries)]).astype(float)
    positives = [
        rng.choice(n_items, rng.integers(1, n_items), replace=False) for _ in range(n_queries)
    ]
    return distances, positives


def mask_of(case: Case) -> NDArray[np.bool_]:
    distances, positives = case
    mask = np.zeros(distances.shape, dtype=bool)
    for row, right in zip(mask, positives, strict=True):
        row[right] = True
    return mask


@given(cases(ties=True))
def test_ranks_are_those_of_a_sorted_list_with_positives_last_among_equals(case: Case) -> None:
    mask = mask_of(case)
    for row, right, ranks in zip(case[0], mask, rankings.positive_ranks(*case), strict=True):
        order = sorted(range(len(row)), key=lambda item: (row[item], right[item]))
        expected = [place for place, item in enumerate(order, 1) if right[item]]
        assert ranks.tolist() == expected


@given(cases(ties=True))
def test_the_first_rank_is_the_one_of_metrics(case: Case) -> None:
    first = [ranks[0] for ranks in rankings.positive_ranks(*case)]
    assert first == metrics.first_positive_ranks(case[0], mask_of(case)).tolist()


@given(cases(ties=False))
def test_average_precision_and_auroc_equal_scikit_learn(case: Case) -> None:
    for row, right, ranks in zip(
        case[0], mask_of(case), rankings.positive_ranks(*case), strict=True
    ):
        expected = average_precision_score(right, -row)
        assert rankings.average_precision(ranks) == pytest.approx(expected)
        assert metrics.auroc(-row, right) == pytest.approx(roc_auc_score(right, -row))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auroc_equals_scikit_learn_with_ties(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    if 0 < labels.sum() < len(labels):
        assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


@given(cases(ties=False))
def test_recall_precision_and_reciprocal_rank_equal_trec_eval(case: Case) -> None:
    """trec_eval calls "a positive among the first k" success; it orders ties by name, we do not."""
    distances, positives = case
    judged = {f"q{q}": {f"d{d}": 1 for d in right} for q, right in enumerate(positives)}
    run = {
        f"q{q}": {f"d{d}": -float(value) for d, value in enumerate(row)}
        for q, row in enumerate(distances)
    }
    names = {"map", "Rprec", "recip_rank", "success.1,5,10", "recall.1,5,10"}
    theirs = pytrec_eval.RelevanceEvaluator(judged, names).evaluate(run)
    for q, ranks in enumerate(rankings.positive_ranks(distances, positives)):
        expected = theirs[f"q{q}"]
        assert rankings.average_precision(ranks) == pytest.approx(expected["map"])
        assert rankings.r_precision(ranks) == pytest.approx(expected["Rprec"])
        assert 1 / ranks[0] == pytest.approx(expected["recip_rank"])
        for k in (1, 5, 10):
            assert metrics.recall_at_k(ranks[:1], k) == expected[f"success_{k}"]
            assert (ranks <= k).mean() == pytest.approx(expected[f"recall_{k}"])


@given(cases(ties=False))
def test_average_precision_at_r_is_its_definition(case: Case) -> None:
    """(1/R) Σ over r = 1…R of precision@r where the item at r is right, else 0."""
    for row, right, ranks in zip(
        case[0], mask_of(case), rankings.positive_ranks(*case), strict=True
    ):
        found = right[np.argsort(row)]
        n = int(right.sum())
        expected = sum(found[:r].mean() for r in range(1, n + 1) if found[r - 1]) / n
        assert rankings.average_precision_at_r(ranks) == pytest.approx(expected)
        assert rankings.average_precision_at_r(ranks) <= rankings.r_precision(ranks)


def test_a_constant_distance_earns_nothing() -> None:
    (ranks,) = rankings.positive_ranks(np.zeros((1, 10)), [[3, 4]])
    assert ranks.tolist() == [9, 10]


def test_a_right_item_outside_of_the_gallery_is_never_found_but_counts() -> None:
    (ranks,) = rankings.positive_ranks([[0.0, 1.0, 2.0]], [[-1, 0, -1]])
    assert ranks.tolist() == [1, 4, 4]
    assert rankings.average_precision_at_r(ranks) == pytest.approx(1 / 3)
    assert rankings.r_precision(ranks) == pytest.approx(1 / 3)


@pytest.mark.parametrize("positives", [[], [[]], [[1, 1]], [[0], [1]]])
def test_input_without_meaning_is_refused(positives: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        rankings.positive_ranks([[0.0, 1.0]], positives)
