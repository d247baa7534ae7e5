"""Applying a calibration: what it promises of every query, whatever the labels were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.fitting import fit
from prolip_search.confidence.scoring import score, score_results
from tests.confidence.simulated import FINGERPRINT, simulate


@pytest.fixture(scope="module")
def model() -> ConfidenceModel:
    known, pairs = simulate(seed=1), simulate(seed=2)
    return fit(
        {"text": known.labels(np.random.default_rng(1))},
        {"text": pairs.targets(np.random.default_rng(2))},
        fingerprint=FINGERPRINT,
        n_items=300,
    )


@given(seed=st.integers(0, 10_000))
def test_confidence_never_contradicts_the_ranking(model: ConfidenceModel, seed: int) -> None:
    new = simulate(n_queries=5, seed=seed)
    scored = score(model, "text", new.evidence)
    assert scored.results is not None
    shown = scored.results
    assert (np.diff(shown.confidence, axis=1) <= 0).all()
    match = model.of("text").match
    assert match is not None
    assert match.weights[0] > 0
    assert ((shown.low <= shown.confidence) & (shown.confidence <= shown.high)).all()
    assert (shown.low > 0).all()
    assert (shown.high < 1).all()


@given(seed=st.integers(0, 10_000))
def test_a_query_scores_alike_alone_and_in_a_batch(model: ConfidenceModel, seed: int) -> None:
    new = simulate(n_queries=6, seed=seed)
    batch = score(model, "text", new.evidence)
    order = np.random.default_rng(seed).permutation(300)
    for q in range(6):
        evidence = new.evidence[np.array([q])]
        alone = score(model, "text", evidence)
        assert batch.results is not None
        assert alone.results is not None
        np.testing.assert_array_equal(alone.results.confidence[0], batch.results.confidence[q])
        np.testing.assert_array_equal(alone.results.low[0], batch.results.low[q])
        for name in ("none_probability", "cutoff"):
            mine, theirs = getattr(alone, name), getattr(batch, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert mine[0] == theirs[q]
        any_order = score_results(model, "text", evidence, new.logits[q : q + 1, order])
        first = score_results(model, "text", evidence, new.logits[q : q + 1])
        assert any_order is not None
        assert first is not None
        np.testing.assert_array_equal(any_order.confidence[0], first.confidence[0, order])


def test_a_calibration_survives_json(model: ConfidenceModel) -> None:
    again = ConfidenceModel.from_json(json.loads(json.dumps(model.to_json())))
    assert again.to_json() == model.to_json()
    new = simulate(n_queries=5, seed=3)
    before, after = score(model, "text", new.evidence), score(again, "text", new.evidence)
    assert before.results is not None
    assert after.results is not None
    np.testing.assert_array_equal(before.results.confidence, after.results.confidence)


def test_another_encoder_or_kind_knows_nothing(model: ConfidenceModel) -> None:
    assert model.for_encoder("cd" * 32) is None
    assert model.for_encoder(FINGERPRINT) is model
    scored = score(model, "image", simulate(n_queries=2, seed=4).evidence)
    assert scored.status == "none"
    assert scored.results is None
    assert scored.none_probability is None
    assert scored.cutoff is None
