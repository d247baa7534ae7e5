"""From judged rows and pairs to a calibration, with its quality on queries it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.absence import NONE_FEATURES, NoneModel, fit_none, none_features
from prolip_search.confidence.background import QueryBackground, reference_rank
from prolip_search.confidence.calibration import (
    MIN_QUERIES_FOR_PERCENTILE,
    ConfidenceModel,
    KindModel,
    Quality,
    UncertaintyScale,
)
from prolip_search.confidence.cutoff import fit_cutoff, target_scores
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.features import match_features
from prolip_search.confidence.logistic import sigmoid
from prolip_search.confidence.match import MatchModel, fit_match, row_weights
from prolip_search.confidence.matches import (
    can_expect_matches,
    match_probabilities,
)
from prolip_search.metrics import (
    auroc,
    brier_score,
    log_loss,
    smooth_ece,
    smooth_ece_floor,
    spearman,
)

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

N_FOLDS = 5
# What makes a calibration this index's own.
MIN_JUDGED = 50
MIN_OF_EACH_LABEL = 5
# Thumbs are chosen by whoever pressed them: they count from here on, and only if they help.
MIN_THUMBS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What people said of results of queries of one kind, seen from the current index.

    evidence: of the Q queries. keys [Q]: what tells queries apart (their text, or a hash).
    nothing [Q]: True where the judge said that nothing in the collection matches.
    Judged rows, one for each query and content: query [n] which of the Q it belongs to;
    logits [n] its ℓ; is_match [n]; propensity [n] the probability of having been asked, in (0, 1];
    rank [n] from 1; is_thumb [n] True for a thumb given while searching.
    """

    evidence: QueryEvidence
    keys: Sequence[str]
    nothing: Mask
    query: Ints
    logits: Doubles
    is_match: Mask
    propensity: Doubles
    rank: Ints
    is_thumb: Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Pairs of a query and its target: evidence of n queries, keys [n], the target's ℓ [n]."""

    evidence: QueryEvidence
    keys: Sequence[str]
    logits: Doubles


def fit(
    labels: Mapping[str, Labels],
    targets: Mapping[str, Targets] | None = None,
    *,
    fingerprint: str,
    n_items: int,
    prior: ConfidenceModel | None = None,
    relation_threshold: float | None = None,
    fitted_at: str | None = None,
) -> ConfidenceModel:
    """The calibration of one index: labels and targets by kind of query, "text" or "image".

    prior: the encoder's shipped calibration, pulled towards and kept where labels are too few.
    Pairs give a cutoff and never a confidence; those whose query has a label are left out, so that
    the cutoff's promise holds. The same labels give the same calibration. Costs seconds for
    thousands of labels. Raises ValueError for a prior of another encoder.
    """
    targets = {} if targets is None else targets
    if prior is not None and prior.fingerprint != fingerprint:
        raise ValueError("The prior was fitted for another encoder; its parameters mean nothing.")
    known = {} if prior is None else prior.kinds
    kinds = sorted({*labels, *targets, *known})
    if relation_threshold is None and prior is not None:
        relation_threshold = prior.relation_threshold
    return ConfidenceModel(
        fingerprint=fingerprint,
        kinds={
            kind: _fit_kind(labels.get(kind), targets.get(kind), known.get(kind, KindModel()))
            for kind in kinds
        },
        n_items=n_items,
        relation_threshold=relation_threshold,
        fitted_at=fitted_at,
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Judged rows with their features and the fold that their query is tested in."""

    features: Doubles
    is_match: Mask
    propensity: Doubles
    query: Ints
    rank: Ints
    fold: Ints

    def __len__(self) -> int:
        return len(self.is_match)

    def __getitem__(self, chosen: Mask) -> _Rows:
        return _Rows(
            self.features[chosen],
            self.is_match[chosen],
            self.propensity[chosen],
            self.query[chosen],
            self.rank[chosen],
            self.fold[chosen],
        )

    @property
    def weights(self) -> Doubles:
        return row_weights(self.propensity)

    def fit(self, prior: MatchModel | None) -> MatchModel:
        return fit_match(
            self.features,
            self.is_match,
            propensity=self.propensity,
            queries=self.query,
            prior=prior,
        )


def _fit_kind(labels: Labels | None, targets: Targets | None, prior: KindModel) -> KindModel:
    kind = KindModel(
        status="none" if prior.match is None else "default",
        match=prior.match,
        none=None if prior.none is None else replace(prior.none, status="default"),
        uncertainty=prior.uncertainty,
        expects_matches=prior.expects_matches,
    )
    if labels is not None:
        kind = _with_labels(kind, labels)
    targets = None if targets is None else _unjudged(targets, labels)
    if targets is not None:
        scores = target_scores(
            None if kind.match is None else match_probabilities(kind.match, targets.evidence),
            targets.evidence,
            targets.logits,
        )
        kind = replace(kind, cutoff=fit_cutoff(scores), n_pairs=len(scores))
    stored = [part.evidence for part in (labels, targets) if part is not None]
    return replace(kind, uncertainty=_uncertainty_scale(kind.match, stored) or kind.uncertainty)


def _with_labels(prior: KindModel, labels: Labels) -> KindModel:
    folds = query_folds(labels.keys)
    rows = _chosen_rows(labels, folds, prior.match)
    kind = replace(prior, n_judged=len(rows), n_queries=len(labels.keys))
    n_matches = int(rows.is_match.sum())
    own = len(rows) >= MIN_JUDGED and min(n_matches, len(rows) - n_matches) >= MIN_OF_EACH_LABEL
    if len(rows) and (own or prior.match is not None):
        kind = replace(kind, status="own" if own else "default", match=rows.fit(prior.match))
    if kind.match is None:
        return kind
    held_out = _held_out_models(rows, prior.match) if own else {}
    if len(held_out) > 1:
        kind = replace(kind, quality=_quality(rows, held_out))
    return replace(
        kind,
        none=_fit_none(kind, labels, folds, held_out),
        expects_matches=kind.expects_matches or (own and can_expect_matches(rows.rank)),
    )


def query_folds(keys: Sequence[str]) -> Ints:
    """Which fold each query is held out in: [Q], 0 to 4, by a hash and so without an order."""
    order = np.argsort(reference_rank(keys), kind="stable")
    folds = np.empty(len(keys), dtype=np.int64)
    folds[order] = np.arange(len(keys)) % N_FOLDS
    return folds


def _chosen_rows(labels: Labels, folds: Ints, prior: MatchModel | None) -> _Rows:
    """The rows to fit on: judged ones, and thumbs where they are many and do no harm."""
    background, query = labels.evidence.background, labels.query
    rows = _Rows(
        match_features(
            labels.logits,
            labels.evidence.uncertainty[query],
            QueryBackground(
                background.evidence[query],
                background.top_1_percent[query],
                background.top_5_percent[query],
                background.spread[query],
            ),
        ),
        labels.is_match,
        labels.propensity,
        query,
        labels.rank,
        folds[query],
    )
    judged = rows[~labels.is_thumb]
    if int(labels.is_thumb.sum()) < MIN_THUMBS:
        return judged
    alone, together = _held_out_models(judged, prior), _held_out_models(rows, prior)
    if len(alone) < 2:
        return rows  # nothing to test the thumbs on
    losses = [
        log_loss(_held_out_confidence(judged, models), judged.is_match, judged.weights)
        for models in (alone, together)
    ]
    return rows if losses[1] <= losses[0] else judged


def _held_out_models(rows: _Rows, prior: MatchModel | None) -> dict[int, MatchModel]:
    """For each fold that occurs, the model of the rows outside it; none where no row is left."""
    folds = {int(fold): rows[rows.fold != fold] for fold in np.unique(rows.fold)}
    return {fold: others.fit(prior) for fold, others in folds.items() if len(others)}


def _held_out_confidence(rows: _Rows, models: dict[int, MatchModel]) -> Doubles:
    confidence = np.empty(len(rows))
    for fold, model in models.items():
        inside = rows.fold == fold
        confidence[inside] = model.confidence(rows.features[inside])
    return confidence


def _quality(rows: _Rows, models: dict[int, MatchModel]) -> Quality:
    confidence = _held_out_confidence(rows, models)
    return Quality(
        smece=smooth_ece(confidence, rows.is_match, rows.weights),
        smece_floor=smooth_ece_floor(confidence, weights=rows.weights),
        brier=brier_score(confidence, rows.is_match, rows.weights),
        brier_raw=brier_score(sigmoid(rows.features[:, 0]), rows.is_match, rows.weights),
        auroc=auroc(confidence, rows.is_match),
        folds=len(models),
    )


def _fit_none(
    kind: KindModel, labels: Labels, folds: Ints, held_out: dict[int, MatchModel]
) -> NoneModel | None:
    """From queries with a match seen, and those of which the judge said that nothing matches.

    Their confidences come from models that did not see them, as those of new queries will.
    """
    assert kind.match is not None
    matched = np.zeros(len(labels.keys), dtype=bool)
    matched[labels.query[labels.is_match]] = True
    known = matched | labels.nothing
    features = np.empty((len(labels.keys), len(NONE_FEATURES)))
    for fold in range(N_FOLDS):
        inside = np.flatnonzero(folds == fold)
        if inside.size:
            evidence = labels.evidence[inside]
            model = held_out.get(fold, kind.match)
            features[inside] = none_features(match_probabilities(model, evidence), evidence)
    return fit_none(features[known], ~matched[known], prior=kind.none)


def _unjudged(targets: Targets, labels: Labels | None) -> Targets:
    """The pairs whose query has no label: no row may serve both the fit and the cutoff."""
    judged = set() if labels is None else set(labels.keys)
    kept = np.array([key not in judged for key in targets.keys], dtype=bool)
    return Targets(
        evidence=targets.evidence[kept],
        keys=[key for key, keep in zip(targets.keys, kept, strict=True) if keep],
        logits=targets.logits[kept],
    )


def _uncertainty_scale(
    match: MatchModel | None, stored: Sequence[QueryEvidence]
) -> UncertaintyScale | None:
    """How uncertain stored queries are, None for fewer than 100."""
    if sum(len(evidence) for evidence in stored) < MIN_QUERIES_FOR_PERCENTILE:
        return None
    uncertainty = np.concatenate([evidence.uncertainty for evidence in stored])
    correlation = float("nan")
    if match is not None:
        expected = [match_probabilities(match, evidence).expected for evidence in stored]
        correlation = spearman(uncertainty, np.concatenate(expected))
    return UncertaintyScale(np.quantile(uncertainty, np.linspace(0, 1, 101)), correlation)
