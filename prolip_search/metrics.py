"""Measures of retrieval, as functions of arrays. Each states its formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def first_positive_ranks(distances: ArrayLike, positives: ArrayLike) -> NDArray[np.int64]:
    """The rank (1 is best) of each query's best-placed positive.

    distances [Q, N], smaller is closer; positives [Q, N], bool. -> [Q]; a query without a positive
    gets N + 1. Ties count against the positive, so that a constant distance earns nothing.
    Raises ValueError when the shapes differ.
    """
    values = np.asarray(distances)
    mask = np.asarray(positives, dtype=bool)
    if values.shape != mask.shape or values.ndim != 2:
        raise ValueError(
            f"distances {values.shape} and positives {mask.shape} must both be [Q, N]."
        )
    best = np.where(mask, values, np.inf).min(axis=1, initial=np.inf)
    ahead = ((values <= best[:, None]) & ~mask).sum(axis=1)
    ranks = np.where(mask.any(axis=1), ahead + 1, values.shape[1] + 1)
    return np.asarray(ranks, dtype=np.int64)


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Recall@k in [0, 1] as used in image-text retrieval: the share of queries with rank <= k.

    ranks [Q] as from `first_positive_ranks`. Raises ValueError for k < 1 or no queries.
    """
    values = np.asarray(ranks)
    if k < 1 or values.size == 0:
        raise ValueError(
            f"recall@k needs k >= 1 and at least one query, not k = {k}, {values.size}."
        )
    return float((values <= k).mean())


def rsum(ranks: Sequence[ArrayLike], ks: Sequence[int] = (1, 5, 10)) -> float:
    """The sum of recall@k in percent over all k and all directions; 600 for two perfect ones."""
    return 100.0 * sum(recall_at_k(direction, k) for direction in ranks for k in ks)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1]: Pearson's r of the ranks, ties at their mean rank.

    x, y [N]. Raises ValueError when the lengths differ or N < 2; NaN when either is constant.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise ValueError(f"Spearman needs two equally long series, not {a.shape} and {b.shape}.")
    ra, rb = _mean_ranks(a), _mean_ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    norm = float(np.sqrt((ra @ ra) * (rb @ rb)))
    return float(ra @ rb) / norm if norm > 0 else float("nan")


def wilson_interval(n_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion; z = 1.96 gives 95 %. Raises ValueError for n < 1."""
    if n < 1 or not 0 <= n_right <= n:
        raise ValueError(f"{n_right} of {n} is not a proportion.")
    share = n_right / n
    centre = share + z * z / (2 * n)
    half = z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    scale = 1 + z * z / n
    return (centre - half) / scale, (centre + half) / scale


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
