"""Fitting the calibration to ship, on judgements whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prolip_search.confidence import defaults
from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.evidence import N_CANDIDATES
from prolip_search.confidence.logistic import sigmoid
from prolip_search.encoders.loading import load_encoder
from prolip_search.errors import TrainingError
from prolip_search.metrics import auroc, brier_score, smooth_ece
from prolip_search.testing import FakeEncoder
from prolip_search.train.calibration.fitting import fit_default, fit_matches, write_default
from prolip_search.train.calibration.galleries import (
    Judged,
    asked_probability,
    gallery_evidence,
    match_logits,
    see,
)
from prolip_search.train.calibration.judged import read_judgements
from prolip_search.train.calibration.photos import Photos, read_photos
from prolip_search.train.calibration.reliability import confidences
from prolip_search.train.calibration.report import halves, short_quality
from prolip_search.train.calibration.searches import everyday_queries, searches
from prolip_search.train.calibration.short_queries import KnownRows, known_rows, reliable_words
from prolip_search.train.evaluation.encoding import encode_texts
from tests.conftest import make_gaussians
from tests.train.calibration.judged_photos import write_photos, write_votes

ENCODER = FakeEncoder(16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return read_photos(write_photos(tmp_path_factory.mktemp("photos")), ENCODER)


@pytest.fixture(scope="module")
def seen(photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> tuple[Judged, Judged]:
    """Both halves."""
    votes = write_votes(tmp_path_factory.mktemp("votes"), 9000)
    said = read_judgements(votes, dict(zip(photos.ids, photos.captions, strict=True)), photos.ids)
    first, second = (
        see(
            said.half(half),
            encode_texts(ENCODER, said.half(half).queries),
            gallery,
            ENCODER.match_logit,
        )
        for half, gallery in enumerate(halves(photos))
    )
    return first, second


def test_a_gallery_is_seen_best_first_with_its_sample() -> None:
    queries, items = make_gaussians(3, 8, 0), make_gaussians(N_CANDIDATES + 1500, 8, 1)
    logits = match_logits(ENCODER.match_logit, queries, items)
    names = [f"item {row}" for row in range(len(items))]
    evidence = gallery_evidence(logits, queries.uncertainty, names)
    assert evidence.logits.shape == (3, N_CANDIDATES)
    assert np.array_equal(evidence.logits[:, 0], logits.max(axis=1))
    assert evidence.reference.shape == (3, 2048)
    # A member is beyond the candidates exactly when its logit is below the last of them.
    assert np.array_equal(evidence.beyond, evidence.reference < evidence.logits[:, -1:])
    # The sum over candidates and sample of ones is the number of items.
    ones = np.ones_like(evidence.logits), np.ones_like(evidence.reference)
    assert evidence.total(*ones) == pytest.approx(len(items))


def test_judgements_are_found_in_the_gallery(seen: tuple[Judged, Judged]) -> None:
    judged, _ = seen
    labels = judged.labels
    assert len(labels.is_match) == judged.judged.sum() > 1000
    best = labels.rank == 1
    assert np.array_equal(labels.logits[best], judged.evidence.logits[labels.query[best], 0])
    assert judged.own.sum(axis=1).tolist() == [1] * len(judged.texts)
    # Every text is about a photo of this half, and is a match of it nearly always.
    assert judged.is_match[judged.own].mean() > 0.8


def test_the_chance_of_having_been_asked_is_found_again() -> None:
    rng = np.random.default_rng(0)
    rank = np.tile(np.arange(1, 301), (200, 1))
    own = rng.random(rank.shape) < 0.003
    truth = np.where(own, 0.8, np.clip(0.6 / np.sqrt(rank), 0.0, 1.0))
    estimate = asked_probability(rank, own, rng.random(rank.shape) < truth)
    assert np.abs(estimate - truth)[~own].mean() < 0.02
    assert abs(estimate[own].mean() - 0.8) < 0.08
    assert asked_probability(rank, own, np.ones(rank.shape, dtype=bool)).min() == 1.0


def test_confidence_keeps_its_word_on_the_other_half(seen: tuple[Judged, Judged]) -> None:
    fitted, other = seen
    kind = fit_matches(fitted)
    assert (kind.status, kind.n_judged) == ("default", 0)
    assert kind.match is not None
    assert kind.match.n_judged == fitted.judged.sum()
    assert kind.quality is not None
    model = fit_default(kind, ENCODER.fingerprint)
    rows = other.labels
    confidence = confidences(model, other)[other.judged]
    assert smooth_ece(confidence, rows.is_match) < 0.05
    assert auroc(confidence, rows.is_match) > 0.75


def test_pairs_that_others_picked_do_not_set_how_sure_it_is(seen: tuple[Judged, Judged]) -> None:
    """Judging only what fits best and a share of the rest must not make everything a match."""
    judged, _ = seen
    rng = np.random.default_rng(1)
    chance = np.where(judged.is_match, 0.9, 0.15)
    asked = judged.judged & (rng.random(chance.shape) < chance)
    alike = replace(judged, judged=asked, propensity=np.full(chance.shape, 0.5))
    weighted = replace(judged, judged=asked, propensity=chance)
    truth = judged.is_match[judged.judged].mean()
    means = [
        confidences(fit_default(fit_matches(some), ENCODER.fingerprint), judged)[
            judged.judged
        ].mean()
        for some in (alike, weighted)
    ]
    assert means[0] > truth + 0.1
    assert means[1] == pytest.approx(truth, abs=0.05)


def test_what_is_known_of_other_queries_counts_like_judgements(
    seen: tuple[Judged, Judged],
) -> None:
    """Of queries that are unlike the judged ones, in what matches as well as in their context."""
    judged, _ = seen
    rng = np.random.default_rng(2)
    rows = judged.labels
    features = np.repeat(rows.logits[:400, None], 6, axis=1)
    features[:, 1:] = 3.0 + rng.normal(size=(400, 5))
    other = KnownRows(features, rng.random(400) < 0.3, np.arange(400) % 20, rng.random(400) < 0.5)
    alone, both = fit_matches(judged).match, fit_matches(judged, other).match
    assert alone is not None
    assert both is not None
    assert both.n_judged == alone.n_judged + 400
    assert both.confidence(features).mean() == pytest.approx(0.3, abs=0.1)
    assert alone.confidence(features).mean() > 0.6
    same = fit_matches(judged, other[other.word < 0]).match
    assert same is not None
    assert np.array_equal(same.weights, alone.weights)
    figures = short_quality(judged, other)
    assert figures is not None
    assert figures["smECE"]["confidence"] < figures["smECE"]["without short queries"] - 0.2
    assert figures["by sort"]["all"]["results"] == 400
    assert figures["by sort"]["answered"]["results"] == other.answered.sum()
    assert short_quality(judged, other[other.word < 0]) is None


def test_too_few_judgements_give_no_calibration(seen: tuple[Judged, Judged]) -> None:
    judged, _ = seen
    few = np.zeros_like(judged.judged)
    few.ravel()[np.flatnonzero(judged.judged.ravel())[:40]] = True
    with pytest.raises(TrainingError, match=r"needs 50 judgements, 5 of each answer.* has 40"):
        fit_matches(replace(judged, judged=few))
    with pytest.raises(TrainingError, match="0 of them yes"):
        fit_matches(replace(judged, is_match=np.zeros_like(judged.judged)))


def test_matches_of_one_query_alone_are_no_obstacle(seen: tuple[Judged, Judged]) -> None:
    """The fold that holds it out has no match left to learn from."""
    judged, _ = seen
    many = int(judged.judged.sum(axis=1).argmax())
    only = np.zeros_like(judged.judged)
    only[many] = judged.judged[many]
    kind = fit_matches(replace(judged, is_match=only))
    assert kind.match is not None
    assert np.isfinite(kind.match.covariance).all()
    text = fit_default(kind, ENCODER.fingerprint).to_json()
    assert ConfidenceModel.from_json(text).of("text").status == "default"


def test_nothing_is_told_from_something(
    seen: tuple[Judged, Judged], photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each pair of colours is on one photo in 28.
    monkeypatch.setattr("prolip_search.train.calibration.searches.MOST_ANSWERS", 0.1)
    kind = fit_matches(seen[0])
    assert kind.match is not None
    texts, owners = everyday_queries(photos)
    gaussians = encode_texts(ENCODER, texts)
    line = ENCODER.match_logit
    asked = searches(kind.match, texts, owners, gaussians, photos, line)
    assert asked.nothing.sum() * 2 == len(asked.nothing) > 100
    assert np.array_equal(asked.owner[::2], asked.owner[1::2])
    model = fit_default(
        kind, ENCODER.fingerprint, asked=asked, texts=gaussians, photos=photos, line=line
    )
    none = model.of("text").none
    assert none is not None
    assert none.status == "default"
    assert auroc(none.probability(asked.features), asked.nothing) > 0.6
    assert model.of("text").uncertainty is not None
    assert model.relation_threshold is not None
    assert model.of("image").status == "none"


def test_what_many_photos_show_is_not_searched_for_in_vain(
    seen: tuple[Judged, Judged], photos: Photos
) -> None:
    match = fit_matches(seen[0]).match
    assert match is not None
    texts, owners = everyday_queries(photos)
    line = ENCODER.match_logit
    asked = searches(match, texts, owners, encode_texts(ENCODER, texts), photos, line)
    assert len(asked.nothing) == 0


def test_a_default_is_found_under_its_name_and_is_the_same_every_time(
    seen: tuple[Judged, Judged], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fit_default(fit_matches(seen[0]), ENCODER.fingerprint)
    file = write_default(model, tmp_path)
    first = file.read_bytes()
    assert write_default(fit_default(fit_matches(seen[0]), ENCODER.fingerprint), tmp_path) == file
    assert file.read_bytes() == first
    monkeypatch.setattr(defaults, "FOLDER", tmp_path)
    defaults.default_model.cache_clear()
    found = defaults.default_model(ENCODER.fingerprint)
    defaults.default_model.cache_clear()
    assert isinstance(found, ConfidenceModel)
    kept, written = found.of("text").match, model.of("text").match
    assert kept is not None
    assert written is not None
    assert kept.weights == pytest.approx(written.weights, rel=1e-8)


@pytest.mark.slow
def test_what_ships_for_mini_comes_from_the_judgements_and_keeps_its_word(
    shared_data: Path,
) -> None:
    mini = load_encoder("mini")
    photos = read_photos(shared_data / "test.parquet", mini)
    said = read_judgements(
        shared_data / "crowd_judgments.csv",
        dict(zip(photos.ids, photos.captions, strict=True)),
        photos.ids,
    )
    first, second = (
        see(said.half(half), encode_texts(mini, said.half(half).queries), gallery, mini.match_logit)
        for half, gallery in enumerate(halves(photos))
    )
    shipped = defaults.default_model(mini.fingerprint)
    assert shipped is not None
    captioned = read_photos(shared_data / "val.parquet", mini)
    words = reliable_words(captioned.captions)
    texts = encode_texts(mini, [text for word in words for text in word.queries])
    known = known_rows(words, texts, captioned, mini.match_logit)
    confidence = confidences(shipped, second)
    again = confidences(fit_default(fit_matches(first, known), mini.fingerprint), second)
    assert np.abs(confidence - again).max() < 0.01
    label = second.is_match[second.judged]
    assert smooth_ece(confidence[second.judged], label) <= 0.04
    raw = sigmoid(second.logits[second.judged])
    assert brier_score(confidence[second.judged], label) < 0.9 * brier_score(raw, label)
    # Of each of the first ranks at least so many match: those that are known to.
    for rank in (1, 2, 3):
        at = second.rank == rank
        found = (at & second.judged & second.is_match) | (at & ~second.judged & second.own)
        assert confidence[at].mean() > 0.9 * found.sum() / at.sum()
