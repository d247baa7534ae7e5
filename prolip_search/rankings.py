"""Where a query's positives stand in its ranked list, and the measures that are made of that.

For queries with several positives, as in Flickr30k, COCO, CxC and ECCV Caption. Measures of the
first positive alone are in `metrics`. Ranks count from 1, the best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ranks = NDArray[np.int64]


def positive_ranks(distances: ArrayLike, positives: Sequence[ArrayLike]) -> list[Ranks]:
    """The ranks of each query's positives, ascending: Q arrays [R_q].

    distances [Q, N], smaller is closer; positives: for each query the R_q >= 1 different columns
    that are right, −1 for each right item that is not among the N: its rank is N + 1. Ties count
    against the positives, so that a constant distance earns nothing.
    Raises ValueError for other shapes, and for a query without positives or with one twice.
    """
    values = np.asarray(distances)
    if values.ndim != 2 or len(values) != len(positives):
        raise ValueError(f"distances {values.shape} and {len(positives)} lists must be of Q rows.")
    return [_ranks(row, np.asarray(right)) for row, right in zip(values, positives, strict=True)]


def _ranks(row: NDArray[np.floating], positives: NDArray[np.int64]) -> Ranks:
    here = positives[positives >= 0]
    if positives.size == 0 or np.unique(here).size != here.size:
        raise ValueError("Each query needs positives, and each of them once.")
    closeness = np.sort(row[here])
    up_to = np.count_nonzero(row[None, :] <= closeness[:, None], axis=1)
    own = np.searchsorted(closeness, closeness, side="right")
    # Wrong items that stand before, or level with, each positive; then the positives before it.
    ranks = up_to - own + np.arange(1, len(closeness) + 1)
    return np.append(ranks, np.full(positives.size - here.size, len(row) + 1))


def average_precision(ranks: Ranks) -> float:
    """The mean over the R positives of the precision at the rank of each, in [0, 1].

    ranks [R], ascending, as from `positive_ranks`.
    """
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def average_precision_at_r(ranks: Ranks) -> float:
    """AP@R in [0, 1]: as `average_precision`, but positives past rank R count nothing.

    Its mean over queries is mAP@R (Musgrave, Belongie & Lim, ECCV 2020), which agrees with people's
    preferences better than recall does (ECCV Caption: Chun et al., ECCV 2022). ranks [R].
    """
    precision = np.arange(1, len(ranks) + 1) / ranks
    return float(np.where(ranks <= len(ranks), precision, 0.0).mean())


def r_precision(ranks: Ranks) -> float:
    """The share of positives among the first R results, in [0, 1]. ranks [R]."""
    return float((ranks <= len(ranks)).mean())
