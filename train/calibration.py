"""Fits the calibration that an encoder ships with: what `prolip-search evaluate calibration` makes.

Matches are learnt from people's judgements on one half of the photos, "nothing here matches" from
captioned photos in galleries that hold the answer and galleries that do not. Both sorts of photos
must be unknown to the encoder. There is no cutoff in a default: its promise is about the collection
that its pairs come from, and holds for no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prolip_search.confidence.absence import NONE_FEATURES, fit_none, none_features
from prolip_search.confidence.background import REFERENCE_SIZE, reference_rank
from prolip_search.confidence.calibration import (
    ConfidenceModel,
    KindModel,
    Quality,
    UncertaintyScale,
)
from prolip_search.confidence.evidence import N_CANDIDATES, QueryEvidence
from prolip_search.confidence.features import query_context
from prolip_search.confidence.fitting import (
    MIN_JUDGED,
    MIN_OF_EACH_LABEL,
    N_FOLDS,
    Labels,
    query_folds,
)
from prolip_search.confidence.logistic import fit_logistic, sigmoid
from prolip_search.confidence.match import MatchModel, fit_match, ridge_penalty, row_weights
from prolip_search.confidence.matches import match_probabilities
from prolip_search.confidence.relation import relation_threshold
from prolip_search.distances import MatchLogit, csd, inclusion_rows
from prolip_search.errors import TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import auroc, brier_score, smooth_ece, smooth_ece_floor, spearman
from prolip_search.train.judged import Judgements
from prolip_search.train.photos import Photos
from prolip_search.train.unanswered import photos_without_answer, short_query

Doubles = npt.NDArray[np.float64]

N_RANDOM_PAIRS = 20_000
# A search among fewer photos than this tells nothing of a search in a collection.
MIN_GALLERY = 20


@dataclass(frozen=True, eq=False)
class Judged:
    """n judgements seen from one gallery of N photos.

    evidence, gaussians: of the Q queries. logits [Q, N]: of every pair. rank [Q, N]: from 1, by
    logit. judged, is_match, own [Q, N]: whether people were asked about a pair, whether the
    majority said yes, and whether the text was written for the photo. propensity [Q, N]: the
    probability of having been asked, see `asked_probability`.
    """

    texts: Sequence[str]
    gaussians: Gaussians
    photos: Photos
    evidence: QueryEvidence
    logits: Doubles
    rank: npt.NDArray[np.int64]
    judged: npt.NDArray[np.bool_]
    is_match: npt.NDArray[np.bool_]
    own: npt.NDArray[np.bool_]
    propensity: Doubles

    @property
    def labels(self) -> Labels:
        """The judged pairs as rows for a fit, query by query."""
        query, photo = np.nonzero(self.judged)
        return Labels(
            evidence=self.evidence,
            keys=self.texts,
            nothing=np.zeros(len(self.texts), dtype=bool),
            query=query,
            logits=self.logits[query, photo],
            is_match=self.is_match[query, photo],
            propensity=self.propensity[query, photo],
            rank=self.rank[query, photo],
            is_thumb=np.zeros(len(query), dtype=bool),
        )


def match_logits(line: MatchLogit, queries: Gaussians, items: Gaussians) -> Doubles:
    """ℓ of every pair, [Q, N], in float64."""
    return np.asarray(line.logit(csd(queries, items)), dtype=np.float64)


def gallery_evidence(
    logits: Doubles, uncertainty: npt.NDArray[np.floating], ids: Sequence[str]
) -> QueryEvidence:
    """What a search of a whole gallery knows: ℓ [Q, N], u [Q], the ids of the N items."""
    n_items = logits.shape[1]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :N_CANDIDATES]
    candidate = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(candidate, order, True, axis=1)
    sample = np.arange(n_items)
    if n_items > REFERENCE_SIZE:
        sample = np.argsort(reference_rank(ids), kind="stable")[:REFERENCE_SIZE]
    return QueryEvidence(
        logits=np.take_along_axis(logits, order, axis=1),
        reference=logits[:, sample],
        beyond=~candidate[:, sample],
        uncertainty=uncertainty.astype(np.float64),
        n_items=n_items,
    )


def see(judgements: Judgements, texts: Gaussians, photos: Photos, line: MatchLogit) -> Judged:
    """Judgements from a gallery that holds their photos; texts [Q]: those of their queries.

    Raises TrainingError when no judgement is left to see.
    """
    if len(judgements) == 0:
        raise TrainingError("No judgement is left in this half of the photos; give more of them.")
    row_of = {name: row for row, name in enumerate(photos.ids)}
    logits = match_logits(line, texts, photos.gaussians)
    rank = (-logits).argsort(axis=1, kind="stable").argsort(axis=1) + 1
    image = np.array([row_of[name] for name in judgements.images])[judgements.image]
    judged, is_match, own = (np.zeros(logits.shape, dtype=bool) for _ in range(3))
    judged[judgements.query, image] = True
    is_match[judgements.query, image] = judgements.is_match
    for row, owner in enumerate(judgements.owners):
        if owner in row_of:
            own[row, row_of[owner]] = True
    return Judged(
        texts=judgements.queries,
        gaussians=texts,
        photos=photos,
        evidence=gallery_evidence(logits, texts.uncertainty, photos.ids),
        logits=logits,
        rank=rank,
        judged=judged,
        is_match=is_match,
        own=own,
        propensity=asked_probability(rank, own, judged),
    )


def asked_probability(
    rank: npt.NDArray[np.int64], own: npt.NDArray[np.bool_], judged: npt.NDArray[np.bool_]
) -> Doubles:
    """How likely a pair was to be judged, estimated where nobody wrote it down: [Q, N].

    Logistic in the log of its rank, its square, and whether the text is the photo's own: pairs were
    picked by other systems, which rank what fits near the front as this one does.
    """
    position = np.log(rank / rank.shape[1])
    features = np.stack([position, position**2, own, own * position], axis=-1).reshape(-1, 4)
    if judged.all():
        return np.ones(judged.shape)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    asked = fit_logistic(features, judged.ravel(), penalty=1.0)
    smallest = 1.0 / judged.size
    chance = sigmoid(features @ asked.weights + asked.intercept)
    return np.maximum(chance, smallest).reshape(judged.shape)


@dataclass(frozen=True, eq=False)
class Searches:
    """Queries with and without an answer in the gallery: features [S, 5], nothing [S], owner [S].

    owner: the photo that a query was written for, so that both sides of a split share none.
    """

    features: Doubles
    nothing: npt.NDArray[np.bool_]
    owner: npt.NDArray[np.int64]


def everyday_queries(photos: Photos) -> tuple[list[str], npt.NDArray[np.int64]]:
    """A whole caption and a short beginning of another for each photo, and the photo's row."""
    queries: list[tuple[str, int]] = []
    for row, captions in enumerate(photos.captions):
        if not captions:
            continue
        queries.append((captions[row % len(captions)], row))
        short = short_query(captions[(row + 1) % len(captions)], 1 + row % 3)
        if short is not None:
            queries.append((short, row))
    return [text for text, _ in queries], np.array([row for _, row in queries], dtype=np.int64)


def searches(
    match: MatchModel,
    queries: Sequence[str],
    owners: npt.NDArray[np.int64],
    texts: Gaussians,
    photos: Photos,
    line: MatchLogit,
) -> Searches:
    """Every query in two galleries of one size: with its photo, and with all that answers it gone.

    Each third query searches a quarter of the photos, because what a score is worth depends on how
    many it was the best of. Seeded, so that the same data give the same model.
    """
    logits = match_logits(line, texts, photos.gaussians)
    kept = photos_without_answer(queries, [int(row) for row in owners], photos.captions)
    features, nothing, owner = [], [], []
    for row, of_photo in enumerate(owners):
        rng = np.random.default_rng(row)
        without = np.flatnonzero(kept[row])
        if row % 3 == 0:
            without = rng.permutation(without)[: math.ceil(len(photos) / 4)]
        if without.size < MIN_GALLERY:
            continue
        others = np.delete(np.arange(len(photos)), of_photo)
        answered = np.append(rng.permutation(others)[: without.size - 1], of_photo)
        for gallery in (answered, without):
            evidence = gallery_evidence(
                logits[row : row + 1, gallery],
                texts.uncertainty[row : row + 1],
                [photos.ids[int(item)] for item in gallery],
            )
            features.append(none_features(match_probabilities(match, evidence), evidence)[0])
        nothing += [False, True]
        owner += [of_photo, of_photo]
    return Searches(
        np.array(features).reshape(-1, len(NONE_FEATURES)),
        np.array(nothing, dtype=bool),
        np.array(owner, dtype=np.int64),
    )


def fit_matches(judged: Judged) -> KindModel:
    """What judgements alone give: the match model and its quality, as a default of text queries.

    In two steps. Which features count how much is learnt from all judged pairs alike: weights of
    pairs that were judged by a small chance would drown it in noise. How large a confidence is, is
    then learnt with these weights, or it would be that of pairs that others picked for judging.
    Quality is by five folds, split by query, weighted. Raises TrainingError when the judgements are
    too few, or all alike.
    """
    rows = judged.labels
    n, n_yes = len(rows.is_match), int(rows.is_match.sum())
    if n < MIN_JUDGED or min(n_yes, n - n_yes) < MIN_OF_EACH_LABEL:
        raise TrainingError(
            f"A calibration needs {MIN_JUDGED} judgements, {MIN_OF_EACH_LABEL} of each answer; "
            f"this half of the photos has {n}, {n_yes} of them yes."
        )
    context = query_context(rows.evidence.uncertainty, rows.evidence.background)
    features = np.concatenate([rows.logits[:, None], context[rows.query]], axis=1)
    fold = query_folds([f"{row} {text}" for row, text in enumerate(rows.keys)])[rows.query]
    confidence = np.empty(n)
    for number in range(N_FOLDS):
        inside = fold == number
        model = _in_two_steps(features[~inside], rows, ~inside)
        confidence[inside] = model.confidence(features[inside])
    weights = row_weights(rows.propensity)
    quality = Quality(
        smece=smooth_ece(confidence, rows.is_match, weights),
        smece_floor=smooth_ece_floor(confidence, weights=weights),
        brier=brier_score(confidence, rows.is_match, weights),
        brier_raw=brier_score(sigmoid(rows.logits), rows.is_match, weights),
        auroc=auroc(confidence, rows.is_match),
        folds=N_FOLDS,
    )
    # n_judged and its like count an index's own labels; how many a model was fitted on, it knows.
    # Matches are not counted by a default: its labels are of a few in a hundred pairs.
    match = _in_two_steps(features, rows, np.ones(n, dtype=bool))
    return KindModel(status="default", match=match, quality=quality)


def _in_two_steps(features: Doubles, rows: Labels, chosen: npt.NDArray[np.bool_]) -> MatchModel:
    """The weights of all chosen rows alike, then slope and intercept of the weighted rows."""
    label, query = rows.is_match[chosen], rows.query[chosen]
    alike = fit_match(features, label, queries=query)
    log_odds = alike.log_odds(features[:, :1], features[:, 1:])
    level = fit_logistic(
        log_odds,
        label,
        penalty=ridge_penalty(len(label)),
        weights=row_weights(rows.propensity[chosen]),
        groups=query,
    )
    slope = float(level.weights[0])
    if slope <= 0:
        return alike
    # z' = a z + b with z = θ·x: what a and b do not know adds to what θ does not.
    theta = np.append(alike.weights, alike.intercept)
    last = np.zeros_like(theta)
    last[-1] = 1.0
    turned = np.stack([theta, last], axis=1)
    return replace(
        alike,
        weights=slope * alike.weights,
        intercept=slope * alike.intercept + level.intercept,
        covariance=slope**2 * alike.covariance + turned @ level.covariance @ turned.T,
    )


def fit_default(
    matches: KindModel,
    fingerprint: str,
    *,
    asked: Searches | None = None,
    texts: Gaussians | None = None,
    photos: Photos | None = None,
    line: MatchLogit | None = None,
) -> ConfidenceModel:
    """The calibration to ship with an encoder, around what `fit_matches` gave.

    asked: for `none_probability`. texts and photos, with the encoder's line: everyday queries and
    photos for percentiles of uncertainty and for the threshold of relations. What is not given is
    left out.
    """
    kind, threshold = matches, None
    if asked is not None:
        none = fit_none(asked.features, asked.nothing)
        kind = replace(kind, none=None if none is None else replace(none, status="default"))
    if texts is not None and photos is not None and line is not None and kind.match is not None:
        kind = replace(kind, uncertainty=_uncertainty_scale(kind.match, texts, photos, line))
        threshold = _relation_threshold(texts, photos.gaussians)
    return ConfidenceModel(
        fingerprint=fingerprint, kinds={"text": kind}, relation_threshold=threshold
    )


def write_default(model: ConfidenceModel, folder: Path) -> Path:
    """Writes a calibration under the name that `confidence.defaults` looks for."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{model.fingerprint[:16]}.json"
    file.write_text(json.dumps(_rounded(model.to_json()), indent=1) + "\n", encoding="utf-8")
    return file


def _uncertainty_scale(
    match: MatchModel, texts: Gaussians, photos: Photos, line: MatchLogit
) -> UncertaintyScale:
    logits = match_logits(line, texts, photos.gaussians)
    evidence = gallery_evidence(logits, texts.uncertainty, photos.ids)
    expected = match_probabilities(match, evidence).expected
    quantiles = np.quantile(np.asarray(texts.uncertainty, np.float64), np.linspace(0, 1, 101))
    return UncertaintyScale(quantiles, spearman(texts.uncertainty, expected))


def _relation_threshold(texts: Gaussians, photos: Gaussians) -> float:
    rng = np.random.default_rng(0)
    query = rng.integers(0, len(texts), N_RANDOM_PAIRS)
    item = rng.integers(0, len(photos), N_RANDOM_PAIRS)
    return relation_threshold(inclusion_rows(photos[item], texts[query]), photos.dim)


def _rounded(value: object) -> object:
    """Floats to nine digits, which say all that a fit knows and read better."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, Mapping):
        return {name: _rounded(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(content) for content in value]
    return value
