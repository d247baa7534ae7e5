"""Where a list may end and still hold the target: split conformal prediction.

A score says how deep in a query's own expectations an item lies: the share of the query's expected
matches that is ranked above it. Lists of general queries become long, of specific ones short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.matches import MatchProbabilities
from prolip_search.metrics import binomial_cdf

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
CutoffMode = Literal["confident", "average"]

# Of "confident": how sure it is that this installation keeps the promised coverage.
CERTAINTY = 0.9
# Scores that are kept; with more the coverage is known to 0.7 points already.
LARGEST_SAMPLE = 2048


@dataclass(frozen=True, eq=False)
class Cutoff:
    """Scores of n stored (query, target) pairs, ascending: any coverage can be read off them."""

    scores: Doubles

    def threshold(self, coverage: float, mode: CutoffMode = "confident") -> float | None:
        """The largest score to keep, or None where the pairs are too few for the promise.

        coverage in (0, 1). Raises ValueError for another coverage or mode.
        """
        rank = conformal_rank(self.scores.size, coverage, mode)
        return None if rank is None else float(self.scores[rank - 1])


@lru_cache(maxsize=256)  # a search asks the same again and again
def conformal_rank(n: int, coverage: float, mode: CutoffMode) -> int | None:
    """Which of n sorted scores, from 1, bounds a new one with probability >= coverage.

    "average": holds on average over calibrations (Vovk et al. 2005; needs n >= 9 for 0.9).
    "confident": the coverage of this very calibration is >= `coverage` with 90 % certainty, as it
    is distributed like Beta(k, n + 1 − k) (needs n >= 22 for 0.9). None where no score is enough.
    Raises ValueError for another coverage or mode.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"A coverage lies between 0 and 1, not {coverage}.")
    if mode == "average":
        # (n + 1)·coverage may miss a whole number by rounding alone
        rank = math.ceil((n + 1) * coverage - 1e-9)
    elif mode == "confident":
        rank = 1 + int(np.argmax(binomial_cdf(n, coverage) >= CERTAINTY))
    else:
        raise ValueError(f"A cutoff is 'confident' or 'average', not {mode!r}.")
    return rank if rank <= n else None


def fit_cutoff(scores: Doubles) -> Cutoff | None:
    """A cutoff of pairs' scores [n] in any order, None for none; a sample of too many."""
    if scores.size == 0:
        return None
    if scores.size > LARGEST_SAMPLE:
        scores = np.random.default_rng(0).choice(scores, LARGEST_SAMPLE, replace=False)
    return Cutoff(np.sort(scores))


def target_scores(
    probabilities: MatchProbabilities | None, evidence: QueryEvidence, logits: Doubles
) -> Doubles:
    """The score of one item of each query: its ℓ [Q] -> [Q].

    In [0, 1], the share of expected matches ranked above it; without a match model −ℓ.
    The logits must be computed like those of the evidence, or an item may seem to outrank itself.
    """
    if probabilities is None:
        return -logits
    above = evidence.total(
        probabilities.candidates * (evidence.logits > logits[:, None]),
        probabilities.reference * (evidence.reference > logits[:, None]),
    )
    shares: Doubles = above / np.maximum(probabilities.expected, 1e-300)
    return shares


def cutoff_sizes(
    probabilities: MatchProbabilities | None, evidence: QueryEvidence, threshold: float
) -> Ints:
    """How many of the best results each query keeps: [Q], at least 1.

    Exact within the candidates; a cut beyond them is estimated from the sample.
    """
    n_queries, n_candidates = evidence.logits.shape
    if probabilities is None:
        kept = (-evidence.logits <= threshold).sum(axis=1)
    else:
        counted = probabilities.candidates * evidence.counted
        above = np.cumsum(counted, axis=1) - counted
        kept = (above <= threshold * probabilities.expected[:, None]).sum(axis=1)
    kept = np.maximum(kept, 1)
    last = evidence.logits[np.arange(n_queries), kept - 1]
    sizes: Ints = (evidence.logits >= last[:, None]).sum(axis=1)  # what ties with the last stays
    goes_on = np.flatnonzero(sizes == n_candidates)
    if goes_on.size:
        sizes[goes_on] += _kept_beyond(probabilities, evidence, threshold)[goes_on]
    return sizes


def _kept_beyond(
    probabilities: MatchProbabilities | None, evidence: QueryEvidence, threshold: float
) -> Ints:
    """How many items beyond the candidates a query keeps that keeps all of those: [Q]."""
    if probabilities is None:
        kept = (-evidence.reference <= threshold) & evidence.beyond
    else:
        order = np.argsort(-evidence.reference, axis=1, kind="stable")
        beyond = np.take_along_axis(evidence.beyond, order, axis=1)
        mass = np.take_along_axis(probabilities.reference, order, axis=1) * beyond
        first = (probabilities.candidates * evidence.counted).sum(axis=1)
        above = first[:, None] + evidence.weight_beyond[:, None] * (np.cumsum(mass, axis=1) - mass)
        kept = (above <= threshold * probabilities.expected[:, None]) & beyond
    estimated: Ints = np.rint(evidence.weight_beyond * kept.sum(axis=1)).astype(np.int64)
    return estimated
