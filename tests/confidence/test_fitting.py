"""From labels to a calibration: which status, what is kept apart, and what changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prolip_search.confidence.calibration import ConfidenceModel, KindModel
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.fitting import Labels, Targets, fit, query_folds
from prolip_search.confidence.scoring import score
from prolip_search.metrics import auroc, smooth_ece
from tests.confidence.simulated import FINGERPRINT, simulate


def labels_of(n_queries: int = 60, seed: int = 1, informative: bool = True) -> Labels:
    simulated = simulate(n_queries=n_queries, seed=seed, informative=informative)
    return simulated.labels(np.random.default_rng(seed))


def first(labels: Labels, n: int) -> Labels:
    """Only the first n judged rows, of all the queries."""
    names = ("query", "logits", "is_match", "propensity", "rank", "is_thumb")
    return replace(labels, **{name: getattr(labels, name)[:n] for name in names})


def calibrate(
    labels: Labels | None,
    targets: Targets | None = None,
    prior: ConfidenceModel | None = None,
) -> KindModel:
    model = fit(
        {} if labels is None else {"text": labels},
        {} if targets is None else {"text": targets},
        fingerprint=FINGERPRINT,
        n_items=300,
        prior=prior,
    )
    return model.of("text")


def shipped(seed: int = 9) -> ConfidenceModel:
    kind = calibrate(labels_of(n_queries=200, seed=seed))
    return ConfidenceModel(fingerprint=FINGERPRINT, kinds={"text": replace(kind, status="default")})


def test_confidences_of_new_queries_keep_their_word() -> None:
    model = fit({"text": labels_of(200)}, fingerprint=FINGERPRINT, n_items=300)
    new = simulate(n_queries=400, seed=77)
    scored = score(model, "text", new.evidence)
    assert scored.results is not None
    right = np.take_along_axis(new.is_match, new.order, axis=1)[:, :20].ravel()
    confidence = scored.results.confidence[:, :20].ravel()
    assert smooth_ece(confidence, right) < 0.06
    assert auroc(confidence, right) > 0.85
    assert scored.none_probability is not None
    assert auroc(scored.none_probability, ~new.is_match.any(axis=1)) > 0.7


def test_fifty_answers_make_a_calibration_ones_own_and_forty_nine_do_not() -> None:
    labels = labels_of()
    assert calibrate(first(labels, 50)).status == "own"
    assert calibrate(first(labels, 49)).status == "none"
    assert calibrate(first(labels, 49)).match is None
    one_sided = replace(labels, is_match=np.zeros(len(labels.query), dtype=bool))
    assert calibrate(one_sided).status == "none"


def test_pairs_alone_give_a_line_and_no_confidence() -> None:
    kind = calibrate(None, simulate(seed=3).targets(np.random.default_rng(3)))
    assert kind.status == "none"
    assert kind.match is None
    assert kind.cutoff is not None
    assert kind.n_pairs == kind.cutoff.scores.size > 22


def test_no_query_serves_both_the_fit_and_the_line() -> None:
    simulated = simulate(seed=4)
    labels = simulated.labels(np.random.default_rng(4))
    targets = simulated.targets(np.random.default_rng(5))
    judged = targets.keys[:10]
    shared = replace(labels, keys=[*judged, *labels.keys[10:]])
    apart = np.arange(10, len(targets.keys))
    alone = Targets(
        evidence=targets.evidence[apart],
        keys=targets.keys[10:],
        logits=targets.logits[apart],
    )
    kind, expected = calibrate(shared, targets), calibrate(shared, alone)
    assert kind.n_pairs == len(targets.keys) - 10
    assert kind.cutoff is not None
    assert expected.cutoff is not None
    np.testing.assert_array_equal(kind.cutoff.scores, expected.cutoff.scores)
    everything = replace(labels, keys=targets.keys + labels.keys[len(targets.keys) :])
    assert calibrate(everything, targets).cutoff is None


def test_an_encoder_without_information_gets_flat_confidences() -> None:
    flat = 0
    for seed in range(6):
        labels = labels_of(n_queries=100, seed=seed, informative=False)
        match = calibrate(labels).match
        assert match is not None
        assert match.weights[0] >= 0
        new = simulate(n_queries=200, seed=seed + 100, informative=False)
        model = ConfidenceModel(
            fingerprint=FINGERPRINT, kinds={"text": KindModel(status="own", match=match)}
        )
        scored = score(model, "text", new.evidence)
        assert scored.results is not None
        right = np.take_along_axis(new.is_match, new.order, axis=1)
        flat += smooth_ece(scored.results.confidence.ravel(), right.ravel()) < 0.06
    assert flat >= 5


def test_a_logit_that_works_backwards_is_not_believed() -> None:
    labels = labels_of()
    backwards = replace(labels, logits=-labels.logits)
    match = calibrate(backwards).match
    assert match is not None
    assert (match.weights == 0).all()


def test_a_few_answers_move_a_shipped_calibration_and_one_class_cannot_break_it() -> None:
    prior = shipped()
    assert calibrate(None, prior=prior).status == "default"
    before = prior.of("text").match
    assert before is not None
    labels = first(labels_of(seed=5), 20)
    for said, sign in ((True, 1), (False, -1)):
        one_sided = replace(labels, is_match=np.full(20, said))
        kind = calibrate(one_sided, prior=prior)
        assert kind.status == "default"
        assert kind.match is not None
        assert 0.3 < sign * (kind.match.intercept - before.intercept) < 6
        assert np.abs(kind.match.weights - before.weights).max() < 4
    assert calibrate(labels_of(seed=5), prior=prior).status == "own"


def test_a_prior_of_another_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="another encoder"):
        fit({}, fingerprint="cd" * 32, n_items=3, prior=shipped())


def test_a_kind_never_borrows_another_kinds_labels() -> None:
    model = fit({"text": labels_of()}, fingerprint=FINGERPRINT, n_items=300)
    assert model.of("text").status == "own"
    assert model.of("image").status == "none"


def test_the_same_labels_give_the_same_calibration() -> None:
    """As after adding and removing the same items: what is left is what was there."""
    one, two = (
        fit({"text": labels_of()}, fingerprint=FINGERPRINT, n_items=300).to_json() for _ in "ab"
    )
    assert one == two


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_the_order_of_queries_and_answers_does_not_matter(seed: int) -> None:
    labels = labels_of(n_queries=30)
    rng = np.random.default_rng(seed)
    queries, rows = rng.permutation(30), rng.permutation(len(labels.query))
    place = np.argsort(queries)
    shuffled = Labels(
        evidence=labels.evidence[queries],
        keys=[labels.keys[q] for q in queries],
        nothing=labels.nothing[queries],
        query=place[labels.query[rows]],
        logits=labels.logits[rows],
        is_match=labels.is_match[rows],
        propensity=labels.propensity[rows],
        rank=labels.rank[rows],
        is_thumb=labels.is_thumb[rows],
    )
    before, after = calibrate(labels), calibrate(shuffled)
    assert before.match is not None
    assert after.match is not None
    np.testing.assert_allclose(after.match.weights, before.match.weights, rtol=1e-6, atol=1e-8)
    assert before.quality is not None
    assert after.quality is not None
    assert after.quality.brier == pytest.approx(before.quality.brier)
    np.testing.assert_array_equal(query_folds(shuffled.keys), query_folds(labels.keys)[queries])


def test_thumbs_that_do_harm_are_left_out() -> None:
    labels, thumbed = labels_of(n_queries=100), labels_of(n_queries=100, seed=8)

    def together(lie: bool) -> Labels:
        evidence = QueryEvidence(
            *(
                np.concatenate([getattr(part.evidence, name) for part in (labels, thumbed)])
                for name in ("logits", "reference", "beyond", "uncertainty")
            ),
            n_items=300,
        )
        return Labels(
            evidence=evidence,
            keys=[*labels.keys, *(f"thumbed {key}" for key in thumbed.keys)],
            nothing=np.concatenate([labels.nothing, thumbed.nothing]),
            query=np.concatenate([labels.query, thumbed.query + 100]),
            logits=np.concatenate([labels.logits, thumbed.logits]),
            is_match=np.concatenate([labels.is_match, thumbed.is_match ^ lie]),
            propensity=np.concatenate([labels.propensity, thumbed.propensity]),
            rank=np.concatenate([labels.rank, thumbed.rank]),
            is_thumb=np.repeat([False, True], [len(labels.query), len(thumbed.query)]),
        )

    assert calibrate(together(lie=True)).n_judged == len(labels.query)
    assert calibrate(together(lie=False)).n_judged == len(labels.query) + len(thumbed.query)


def test_matches_are_counted_only_with_many_labels_from_far_down() -> None:
    few, many = calibrate(labels_of(100)), calibrate(labels_of(160))
    assert (few.expects_matches, many.expects_matches) == (False, True)
    shallow = replace(labels_of(160), rank=np.ones(len(labels_of(160).query), np.int64))
    assert not calibrate(shallow).expects_matches


def test_a_percentile_needs_a_hundred_queries_and_broad_needs_a_reason() -> None:
    assert calibrate(labels_of(99)).uncertainty is None
    scale = calibrate(labels_of(100)).uncertainty
    assert scale is not None
    assert scale.percentile(np.array([0.0, np.inf])).tolist() == [0.0, 100.0]
    told = replace(scale, correlation=0.5)
    assert told.is_broad(np.array([1e-9, 1e9])).tolist() == [False, True]
    for correlation in (0.29, -0.9, float("nan")):
        assert not replace(scale, correlation=correlation).is_broad(np.array([1e9])).any()
