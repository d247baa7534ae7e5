"""Intervals of means whose rows come in clusters, such as the five captions of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

N_RESAMPLES = 2000
N_AT_ONCE = 100  # resamples whose weights exist at the same time


@dataclass(frozen=True, eq=False)
class Means:
    """M means [M] with a bootstrap distribution [R, M] of each, drawn together."""

    value: Doubles
    draws: Doubles

    def interval(self, level: float = 0.95) -> tuple[Doubles, Doubles]:
        """Percentile bounds [M] of each mean by itself."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def simultaneous_interval(self, level: float = 0.95) -> tuple[Doubles, Doubles]:
        """Bounds [M] of which all hold at once with probability `level`.

        As wide as the largest of the M deviations in its own standard error (max-t bootstrap:
        Romano & Wolf, Econometrica 2005), so that of many comparisons of the same thing with itself
        one alone does not come out as a difference by chance.
        """
        error = self.draws.std(axis=0)
        deviation = np.abs(self.draws - self.value) / np.where(error > 0, error, 1.0)
        width = float(np.quantile(deviation.max(axis=1), level)) * error
        return self.value - width, self.value + width


def clustered_means(
    values: npt.ArrayLike, clusters: npt.ArrayLike, *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Means:
    """Means over rows, and over rows of whole clusters drawn anew with replacement.

    values [Q, M]; clusters [Q] names the cluster of each row. Clusters may differ in size: a mean
    is a ratio of sums. NaN rows of a column are not part of its mean, so that columns may be of
    different queries. Raises ValueError for no rows or other shapes.
    """
    rows = np.asarray(values, dtype=np.float64)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if rows.ndim != 2 or len(rows) == 0 or len(rows) != len(cluster):
        raise ValueError(
            f"values {rows.shape} and clusters {cluster.shape} must be of Q >= 1 rows."
        )
    n_clusters, n_means = int(cluster.max()) + 1, rows.shape[1]
    known = np.isfinite(rows)
    sums, counts = np.zeros((2, n_clusters, n_means))
    np.add.at(sums, cluster, np.where(known, rows, 0.0))
    np.add.at(counts, cluster, known)
    rng = np.random.default_rng(seed)
    even = np.full(n_clusters, 1 / n_clusters)
    draws = []
    for first in range(0, n_resamples, N_AT_ONCE):
        size = min(N_AT_ONCE, n_resamples - first)
        drawn = rng.multinomial(n_clusters, even, size).astype(np.float64)
        draws.append((drawn @ sums) / np.maximum(drawn @ counts, 1e-9))
    return Means(sums.sum(axis=0) / np.maximum(counts.sum(axis=0), 1e-9), np.concatenate(draws))
