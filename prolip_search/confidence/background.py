"""How a query looks at a whole collection: what a single result is judged against.

The statistics are those of a distribution, taken over a sample of the items, so they stay where
they are when the collection grows. Rank, margin and top score do not, and are not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]

# Items in the reference sample: the ones of smallest `reference_rank`, all when there are fewer.
REFERENCE_SIZE = 2048


@dataclass(frozen=True, eq=False)
class QueryBackground:
    """Statistics of a query's match logits over the reference sample, each [Q].

    evidence: log mean exp ℓ. top_1_percent, top_5_percent: the ℓ at rank ⌈0.01 R⌉ and ⌈0.05 R⌉.
    spread: the standard deviation of ℓ.
    """

    evidence: Doubles
    top_1_percent: Doubles
    top_5_percent: Doubles
    spread: Doubles


def query_background(logits: ArrayLike) -> QueryBackground:
    """The background of each query: match logits [Q, R] of the reference sample, in any order.

    Raises ValueError for another shape, R = 0 or logits that are not finite.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"A background needs match logits [Q, R] with R >= 1, not {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("A match logit is not finite.")
    n_reference = values.shape[1]
    first, fifth = math.ceil(0.01 * n_reference), math.ceil(0.05 * n_reference)
    # The kth largest is the (R − k)th smallest, counted from 0.
    parted = np.partition(values, (n_reference - fifth, n_reference - first), axis=1)
    return QueryBackground(
        evidence=log_mean_exp(values),
        top_1_percent=parted[:, n_reference - first],
        top_5_percent=parted[:, n_reference - fifth],
        spread=values.std(axis=1),
    )


def log_mean_exp(values: Doubles) -> Doubles:
    """log of the mean of exp over the last axis, without overflow: [..., R] -> [...]."""
    largest = values.max(axis=-1, keepdims=True)
    means: Doubles = np.log(np.exp(values - largest).mean(axis=-1)) + largest[..., 0]
    return means


def reference_rank(ids: Iterable[str]) -> NDArray[np.uint64]:
    """A stable hash of each id, uniform over 64 bits: [N]. The smallest form the sample.

    A sample so drawn is uniform and changes by one item when one item comes or goes.
    """
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
