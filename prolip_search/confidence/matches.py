"""How many items of a gallery match a query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.features import query_context
from prolip_search.confidence.logistic import sigmoid
from prolip_search.confidence.match import MatchModel

Doubles = NDArray[np.float64]

# The count lies within × and ÷ this.
EXPECTED_BAND = 2.0
# With fewer labels, above all of results far down, the count was four times too high.
MIN_JUDGED = 500
MIN_JUDGED_BEYOND_10 = 100


@dataclass(frozen=True, eq=False)
class MatchProbabilities:
    """Uncut probabilities of a match, in [0, 1], for the queries of one evidence.

    candidates [Q, n], reference [Q, R]. expected [Q]: Σ p over all N items, over the candidates one
    by one and beyond them from the sample.
    """

    candidates: Doubles
    reference: Doubles
    expected: Doubles


def match_probabilities(model: MatchModel, evidence: QueryEvidence) -> MatchProbabilities:
    """What a match model says of everything that the evidence knows."""
    context = query_context(evidence.uncertainty, evidence.background)
    candidates = sigmoid(model.log_odds(evidence.logits, context))
    reference = sigmoid(model.log_odds(evidence.reference, context))
    return MatchProbabilities(candidates, reference, evidence.total(candidates, reference))


def can_expect_matches(ranks: NDArray[np.integer]) -> bool:
    """Whether rows judged at these ranks [n], 1 is best, are enough to count matches by."""
    return ranks.size >= MIN_JUDGED and int((ranks > 10).sum()) >= MIN_JUDGED_BEYOND_10
