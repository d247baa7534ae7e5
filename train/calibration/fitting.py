"""Fits the calibration that an encoder ships with: what `prolip-search evaluate calibration` makes.

Matches are learnt from people's judgements on one half of the photos and from short queries of
captioned photos, "nothing here matches" from captioned photos in galleries that hold the answer
and galleries that do not. Both sorts of photos must be unknown to the encoder. There is no
cutoff in a default: its promise is about the collection that its pairs come from, and holds for no
other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prolip_search.confidence.absence import fit_none
from prolip_search.confidence.calibration import (
    ConfidenceModel,
    KindModel,
    Quality,
    UncertaintyScale,
)
from prolip_search.confidence.features import query_context
from prolip_search.confidence.fitting import (
    MIN_JUDGED,
    MIN_OF_EACH_LABEL,
    N_FOLDS,
    Labels,
    query_folds,
)
from prolip_search.confidence.logistic import fit_logistic, sigmoid
from prolip_search.confidence.match import LARGEST_WEIGHT, MatchModel, fit_match
from prolip_search.confidence.matches import match_probabilities
from prolip_search.confidence.relation import relation_threshold
from prolip_search.distances import MatchLogit, inclusion_rows
from prolip_search.errors import TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import auroc, brier_score, smooth_ece, smooth_ece_floor, spearman
from prolip_search.train.calibration.galleries import Judged, gallery_evidence, match_logits
from prolip_search.train.calibration.photos import Photos
from prolip_search.train.calibration.searches import Searches
from prolip_search.train.calibration.short_queries import KnownRows

Doubles = npt.NDArray[np.float64]

N_RANDOM_PAIRS = 20_000
SHOWN = 10  # results that a search shows
# A hair: one slope has thousands of rows, and a handful of them must not turn it over.
LEVEL_PENALTY = 0.1


@dataclass(frozen=True, eq=False)
class _Rows:
    """n rows of a fit: features [n, 6], is_match, propensity, and the query of each, [n]."""

    features: Doubles
    is_match: npt.NDArray[np.bool_]
    propensity: Doubles
    query: npt.NDArray[np.int64]

    def __getitem__(self, chosen: npt.NDArray[np.bool_]) -> _Rows:
        return _Rows(
            self.features[chosen],
            self.is_match[chosen],
            self.propensity[chosen],
            self.query[chosen],
        )

    def and_known(self, known: KnownRows | None) -> _Rows:
        """These and, under queries of their own, rows whose truth was known without asking."""
        if known is None:
            return self
        return _Rows(
            np.concatenate([self.features, known.features]),
            np.concatenate([self.is_match, known.is_match]),
            np.concatenate([self.propensity, np.ones(len(known))]),
            np.concatenate([self.query, self.query.max() + 1 + known.word]),
        )


def fit_matches(judged: Judged, known: KnownRows | None = None) -> KindModel:
    """What judgements alone give: the match model and its quality, as a default of text queries.

    known: first results of short queries, counted like judgements; without them a calibration of
    long texts says too little of short ones.

    In two steps. Which features count how much is learnt from all judged pairs alike: weights of
    pairs that were judged by a small chance would drown it in noise. How large a confidence is, is
    then learnt with these weights, or it would be that of pairs that others picked for judging.
    Quality is of judged pairs, by five folds, split by query, weighted, over the ranks that a
    search shows: over all pairs, most of which fit nothing, any error would look small. Raises
    TrainingError when the judgements are too few, or all alike.
    """
    labels = judged.labels
    n, n_yes = len(labels.is_match), int(labels.is_match.sum())
    if n < MIN_JUDGED or min(n_yes, n - n_yes) < MIN_OF_EACH_LABEL:
        raise TrainingError(
            f"A calibration needs {MIN_JUDGED} judgements, {MIN_OF_EACH_LABEL} of each answer; "
            f"this half of the photos has {n}, {n_yes} of them yes."
        )
    context = query_context(labels.evidence.uncertainty, labels.evidence.background)
    features = np.concatenate([labels.logits[:, None], context[labels.query]], axis=1)
    rows = _Rows(features, labels.is_match, labels.propensity, labels.query)
    fold = query_folds([f"{row} {text}" for row, text in enumerate(labels.keys)])[labels.query]
    confidence = np.empty(n)
    for number in range(N_FOLDS):
        inside = fold == number
        model = _in_two_steps(rows[~inside].and_known(known))
        confidence[inside] = model.confidence(features[inside])
    quality = _quality(confidence, labels, labels.rank <= SHOWN)
    # n_judged and its like count an index's own labels; how many a model was fitted on, it knows.
    # Matches are not counted by a default: its labels are of a few in a hundred pairs.
    match = _in_two_steps(rows.and_known(known))
    return KindModel(status="default", match=match, quality=quality)


def _quality(confidence: Doubles, rows: Labels, shown: npt.NDArray[np.bool_]) -> Quality | None:
    """Of the rows that are shown; None where all of them have one answer."""
    promised, label = confidence[shown], rows.is_match[shown]
    if not label.any() or label.all():
        return None
    weights = _weights(rows.propensity)[shown]
    return Quality(
        smece=smooth_ece(promised, label, weights),
        smece_floor=smooth_ece_floor(promised, weights=weights),
        brier=brier_score(promised, label, weights),
        brier_raw=brier_score(sigmoid(rows.logits[shown]), label, weights),
        auroc=auroc(promised, label),
        folds=N_FOLDS,
    )


def _weights(propensity: Doubles) -> Doubles:
    """1 / propensity, cut at five times its mean: [n] -> [n]."""
    inverse = 1.0 / propensity
    cut: Doubles = np.minimum(inverse, LARGEST_WEIGHT * inverse.mean())
    return cut


def _in_two_steps(rows: _Rows) -> MatchModel:
    """The weights of all rows alike, then slope and intercept of the weighted rows."""
    alike = fit_match(rows.features, rows.is_match, queries=rows.query)
    if not rows.is_match.any() or rows.is_match.all():
        return alike  # of one answer only the share can be learnt, and that has been
    log_odds = alike.log_odds(rows.features[:, :1], rows.features[:, 1:])
    level = fit_logistic(
        log_odds,
        rows.is_match,
        penalty=LEVEL_PENALTY,
        weights=_weights(rows.propensity),
        groups=rows.query,
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
