"""What a search knows about its queries before any calibration: logits, and how many items."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.background import QueryBackground, query_background

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Candidates that sums over the collection take one by one; what lies beyond them is sampled.
N_CANDIDATES = 1000


@dataclass(frozen=True, eq=False)
class QueryEvidence:
    """Q queries of one kind against one gallery (the collection, or what a filter leaves of it).

    logits [Q, n]: match logits ℓ of the best n = min(N, 1000) items of each query, descending.
    reference [Q, R]: those of the gallery's reference sample, in any order, R >= 1.
    beyond [Q, R]: which members of the sample are not among the query's n candidates.
    uncertainty [Q]: u of the queries, > 0.
    n_items: N, how many items the gallery has; items of equal content count once.
    repeats [Q, n]: candidates whose content a better candidate has already; None for none.
    Logits are natural-log odds in float64. Raises ValueError for arrays that do not go together.
    """

    logits: Doubles
    reference: Doubles
    beyond: Mask
    uncertainty: Doubles
    n_items: int
    repeats: Mask | None = None

    def __post_init__(self) -> None:
        for name in ("logits", "reference", "uncertainty"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of a query's evidence holds NaN or infinity.")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "beyond", np.asarray(self.beyond, dtype=bool))
        n_queries = self.uncertainty.size
        for name in ("logits", "reference"):
            shape = getattr(self, name).shape
            if len(shape) != 2 or shape[0] != n_queries or shape[1] == 0:
                raise ValueError(f"{name} must be [{n_queries}, n] with n >= 1, not {shape}.")
        if self.beyond.shape != self.reference.shape:
            raise ValueError(f"beyond {self.beyond.shape} goes with {self.reference.shape}.")
        if self.repeats is not None and self.repeats.shape != self.logits.shape:
            raise ValueError(f"repeats {self.repeats.shape} goes with {self.logits.shape}.")
        if (self.uncertainty <= 0).any():
            raise ValueError("The uncertainty of a query is > 0.")
        if (np.diff(self.logits, axis=1) > 0).any():
            raise ValueError("Candidates come best first: logits must not rise along a row.")

    def __len__(self) -> int:
        return self.uncertainty.size

    def __getitem__(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> QueryEvidence:
        """The chosen queries."""
        return QueryEvidence(
            logits=self.logits[rows],
            reference=self.reference[rows],
            beyond=self.beyond[rows],
            uncertainty=self.uncertainty[rows],
            n_items=self.n_items,
            repeats=None if self.repeats is None else self.repeats[rows],
        )

    @cached_property
    def background(self) -> QueryBackground:
        """The queries' background over the reference sample."""
        return query_background(self.reference)

    @cached_property
    def counted(self) -> Doubles:
        """[Q, n]: 1 for a candidate that counts in sums, 0 for a repeat."""
        counted = np.ones(self.logits.shape)
        if self.repeats is not None:
            counted[self.repeats] = 0.0
        return counted

    @cached_property
    def weight_beyond(self) -> Doubles:
        """[Q]: how many items each member of the sample beyond the candidates stands for."""
        rest = np.maximum(self.n_items - self.counted.sum(axis=1), 0.0)
        members = self.beyond.sum(axis=1)
        return np.where(members > 0, rest / np.maximum(members, 1), 0.0)

    def total(self, of_candidates: Doubles, of_reference: Doubles) -> Doubles:
        """The sum of a value over all N items: [Q, n] and [Q, R] -> [Q].

        Exact over the candidates, estimated from the sample beyond them.
        """
        sampled = (of_reference * self.beyond).sum(axis=1)
        total: Doubles = (of_candidates * self.counted).sum(axis=1) + self.weight_beyond * sampled
        return total
