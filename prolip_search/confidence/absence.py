"""Whether a gallery holds anything that matches a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.logistic import Pull, fit_logistic, sigmoid
from prolip_search.confidence.match import INTERCEPT_PENALTY, ridge_penalty
from prolip_search.confidence.matches import MatchProbabilities

Doubles = NDArray[np.float64]

NONE_FEATURES = (
    "log_expected_matches",
    "log_best_confidence",
    "best_logit",
    "log_query_uncertainty",
    "evidence",
)
BEST_CONFIDENCE = NONE_FEATURES.index("log_best_confidence")
MIN_QUERIES = 50
MIN_OF_EACH = 10
# Probabilities below this say nothing more by being smaller, and their logarithm must stay finite.
SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class NoneModel:
    """P(nothing matches) = σ(v·ψ̃ + d), ψ̃ = (ψ − center) / scale, over NONE_FEATURES, each [5].

    At most 1 − the best confidence: where nothing matches the first result does not, and a page
    that says "80 %" beside its first photo must not say "perhaps nothing here matches" above it.
    status: whether queries of this index made it ("own") or it came with the encoder ("default").
    """

    center: Doubles
    scale: Doubles
    weights: Doubles
    intercept: float
    n_queries: int
    status: Literal["own", "default"] = "own"

    def probability(self, features: Doubles) -> Doubles:
        """ψ [Q, 5] -> [Q], uncut."""
        standard = (features - self.center) / self.scale
        probability = sigmoid((standard * self.weights).sum(axis=1) + self.intercept)
        return np.minimum(probability, 1.0 - np.exp(features[:, BEST_CONFIDENCE]))


def none_features(probabilities: MatchProbabilities, evidence: QueryEvidence) -> Doubles:
    """ψ of each query: [Q, 5]. Sums run over the whole gallery, not its sample alone."""
    best = evidence.logits[:, :1]
    # exp(ℓ − ℓ₁) cannot overflow; the logarithm puts ℓ₁ back.
    ratios = evidence.total(np.exp(evidence.logits - best), np.exp(evidence.reference - best))
    return np.stack(
        [
            np.log(np.maximum(probabilities.expected, SMALLEST)),
            np.log(np.maximum(probabilities.candidates[:, 0], SMALLEST)),
            best[:, 0],
            np.log(evidence.uncertainty),
            np.log(ratios / evidence.n_items) + best[:, 0],
        ],
        axis=1,
    )


def fit_none(
    features: Doubles, nothing: NDArray[np.bool_], *, prior: NoneModel | None = None
) -> NoneModel | None:
    """The model of judged queries: ψ [Q, 5]; nothing [Q]: True where nothing matches.

    Given back is the prior where fewer than 50 queries, or 10 of either sort, were judged.
    """
    n, n_nothing = len(nothing), int(nothing.sum())
    if n < MIN_QUERIES or min(n_nothing, n - n_nothing) < MIN_OF_EACH:
        return prior
    if prior is None:
        center, deviation = features.mean(axis=0), features.std(axis=0)
        scale, pull = np.where(deviation > 1e-9, deviation, 1.0), None
    else:
        center, scale = prior.center, prior.scale
        pull = Pull(prior.weights, prior.intercept, INTERCEPT_PENALTY)
    fit = fit_logistic((features - center) / scale, nothing, penalty=ridge_penalty(n), pull=pull)
    return NoneModel(center, scale, fit.weights, fit.intercept, n)
