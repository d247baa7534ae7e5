"""Applying a calibration to a search: pure arithmetic over what the search has found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.absence import none_features
from prolip_search.confidence.calibration import ConfidenceModel, Status
from prolip_search.confidence.cutoff import CutoffMode, cutoff_sizes
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.features import query_context
from prolip_search.confidence.logistic import sigmoid
from prolip_search.confidence.match import BAND_Z, MatchModel
from prolip_search.confidence.matches import match_probabilities

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ResultConfidence:
    """Of results [Q, n]: the confidence and its 90 % band as they are shown, in (0, 1)."""

    confidence: Doubles
    low: Doubles
    high: Doubles


@dataclass(frozen=True, eq=False)
class QueryConfidence:
    """What a calibration says of Q queries; None where it cannot know.

    results: of the evidence's candidates, in their order. none_probability [Q]: that nothing in
    the gallery matches. expected_matches [Q]: how many do, within × and ÷ `EXPECTED_BAND`.
    cutoff [Q]: how many of the best results hold the target with probability >= coverage.
    uncertainty_percentile [Q], 0 to 100; is_broad [Q]: whether a query may be called broad.
    """

    status: Status
    results: ResultConfidence | None
    none_probability: Doubles | None
    expected_matches: Doubles | None
    cutoff: NDArray[np.int64] | None
    uncertainty_percentile: Doubles | None
    is_broad: NDArray[np.bool_] | None


def score(
    model: ConfidenceModel,
    kind: str,
    evidence: QueryEvidence,
    *,
    coverage: float = 0.9,
    mode: CutoffMode = "confident",
    with_results: bool = True,
) -> QueryConfidence:
    """Everything that a calibration says of queries of one kind, "text" or "image".

    with_results: whether the candidates' own confidences are wanted, and not only those of the few
    that are shown (`score_results`). Costs a few passes over [Q, n] and [Q, R]. Raises ValueError
    for a coverage outside (0, 1).
    """
    known = model.of(kind)
    probabilities = None if known.match is None else match_probabilities(known.match, evidence)
    none_probability = None
    if known.none is not None and probabilities is not None:
        uncut = known.none.probability(none_features(probabilities, evidence))
        none_probability = _shown(uncut, known.none.n_queries)
    cutoff = None
    if known.cutoff is not None:
        threshold = known.cutoff.threshold(coverage, mode)
        if threshold is not None:
            cutoff = cutoff_sizes(probabilities, evidence, threshold)
    scale = known.uncertainty
    return QueryConfidence(
        status=known.status,
        results=_results(known.match, evidence, evidence.logits)
        if with_results and known.match is not None
        else None,
        none_probability=none_probability,
        expected_matches=probabilities.expected
        if known.expects_matches and probabilities is not None
        else None,
        cutoff=cutoff,
        uncertainty_percentile=None if scale is None else scale.percentile(evidence.uncertainty),
        is_broad=None if scale is None else scale.is_broad(evidence.uncertainty),
    )


def score_results(
    model: ConfidenceModel, kind: str, evidence: QueryEvidence, logits: Doubles
) -> ResultConfidence | None:
    """Confidences of any items of the gallery, candidates or not: ℓ [Q, m], in any order.

    For lists ranked otherwise and pages further down. None where the kind is uncalibrated.
    """
    match = model.of(kind).match
    return None if match is None else _results(match, evidence, logits)


def _results(match: MatchModel, evidence: QueryEvidence, logits: Doubles) -> ResultConfidence:
    context = query_context(evidence.uncertainty, evidence.background)
    middle = match.log_odds(logits, context)
    half = BAND_Z * match.log_odds_deviation(logits, context)
    return ResultConfidence(
        *(_shown(sigmoid(z), match.n_judged) for z in (middle, middle - half, middle + half))
    )


def _shown(probability: Doubles, n_labels: int) -> Doubles:
    """n labels cannot tell a probability from 0 or 1 any better than this."""
    edge = 1.0 / (n_labels + 2)
    return np.clip(probability, edge, 1.0 - edge)
