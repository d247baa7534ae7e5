"""Queries and labels with a known truth: a match logit that each query shifts in its own way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.background import REFERENCE_SIZE
from prolip_search.confidence.evidence import N_CANDIDATES, QueryEvidence
from prolip_search.confidence.fitting import Labels, Targets

FINGERPRINT = "ab" * 32


@dataclass(frozen=True, eq=False)
class Simulated:
    """Q queries against N items: evidence, all logits [Q, N] and whether each item matches."""

    evidence: QueryEvidence
    logits: NDArray[np.float64]
    is_match: NDArray[np.bool_]
    order: NDArray[np.int64]  # [Q, N], best first

    def labels(self, rng: np.random.Generator, per_query: int = 4) -> Labels:
        """Ranks 1 to 10 are asked with probability 0.7, 11 to 200 with 0.3; each at most once."""
        n_queries, n_items = self.logits.shape
        deep = min(n_items, 200)
        query, rank = [], []
        for q in range(n_queries):
            near = rng.random(per_query) < 0.7
            asked = np.where(
                near, rng.integers(1, 11, per_query), rng.integers(11, deep + 1, per_query)
            )
            for r in np.unique(asked):
                query.append(q)
                rank.append(int(r))
        queries, ranks = np.array(query), np.array(rank)
        item = self.order[queries, ranks - 1]
        return Labels(
            evidence=self.evidence,
            keys=[f"query {q}" for q in range(n_queries)],
            nothing=~self.is_match.any(axis=1),
            query=queries,
            logits=self.logits[queries, item],
            is_match=self.is_match[queries, item],
            propensity=per_query * np.where(ranks <= 10, 0.07, 0.3 / (deep - 10)),
            rank=ranks,
            is_thumb=np.zeros(len(queries), dtype=bool),
        )

    def targets(self, rng: np.random.Generator) -> Targets:
        """A random match of each query that has one."""
        chosen = np.flatnonzero(self.is_match.any(axis=1))
        items = [rng.choice(np.flatnonzero(self.is_match[q])) for q in chosen]
        return Targets(
            evidence=self.evidence[chosen],
            keys=[f"pair {q}" for q in chosen],
            logits=self.logits[chosen, items],
        )


def simulate(
    n_queries: int = 60, n_items: int = 300, seed: int = 0, informative: bool = True
) -> Simulated:
    """Logits of matches lie higher; how many match differs from query to query, some have none."""
    rng = np.random.default_rng(seed)
    share = np.where(rng.random(n_queries) < 0.25, 0.0, rng.beta(0.6, 8, n_queries))
    is_match = rng.random((n_queries, n_items)) < share[:, None]
    logits = rng.normal(-4, 1.5, (n_queries, n_items)) + rng.normal(0, 1, (n_queries, 1))
    logits += 4.0 * is_match if informative else 0.0
    return seen(logits, is_match, np.exp(rng.normal(-3, 0.3, n_queries)))


def seen(
    logits: NDArray[np.float64], is_match: NDArray[np.bool_], uncertainty: NDArray[np.float64]
) -> Simulated:
    """What a search would know of these logits; the first items are the reference sample."""
    n_items = logits.shape[1]
    order = np.argsort(-logits, axis=1, kind="stable")
    n_candidates, n_reference = min(n_items, N_CANDIDATES), min(n_items, REFERENCE_SIZE)
    rank = np.argsort(order, axis=1)
    evidence = QueryEvidence(
        logits=np.take_along_axis(logits, order[:, :n_candidates], axis=1),
        reference=logits[:, :n_reference],
        beyond=rank[:, :n_reference] >= n_candidates,
        uncertainty=uncertainty,
        n_items=n_items,
    )
    return Simulated(evidence, logits, is_match, order)
