"""Measures of retrieval, of probabilities and of scores, as functions of arrays.

Each states its formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


# --- How well probabilities keep their word ----------------------------------------------------


def smooth_ece(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Smooth expected calibration error in [0, 1], 0 is perfect (Błasiok & Nakkiran, ICLR 2024).

    smECE_σ = ∫₀¹ |E[K_σ(p, t) (y − p)]| dt with K_σ a Gaussian reflected at 0 and 1, taken at the
    bandwidth where smECE_σ = σ. Unlike a binned error it has no bins to choose and no jumps.
    probabilities [N] in [0, 1]; labels [N], 0 or 1; weights [N] >= 0, else all alike.
    Compare it with `smooth_ece_floor`: even a perfect predictor shows more than 0 on finite rows.
    Raises ValueError for other shapes or values, or no rows.
    """
    p, y, w = _checked_forecast(probabilities, labels, weights)
    residual = _residual_waves(p, w * (y - p))
    low, high = 0.0, 1.0
    for _ in range(30):  # smECE_σ falls as σ grows, so the fixed point is where they cross
        sigma = (low + high) / 2
        low, high = (sigma, high) if _smoothed_error(residual, sigma) > sigma else (low, sigma)
    return (low + high) / 2


def smooth_ece_floor(
    probabilities: ArrayLike,
    seed: int = 0,
    n_draws: int = 20,
    weights: ArrayLike | None = None,
) -> float:
    """The smECE that a perfect predictor of these probabilities shows, the mean of some draws.

    probabilities [N] in [0, 1]; labels are drawn from them. Falls with about √N.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    rng = np.random.default_rng(seed)
    return float(np.mean([smooth_ece(p, rng.random(p.shape) < p, weights) for _ in range(n_draws)]))


def brier_score(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """The mean of (p − y)², in [0, 1], smaller is better. Shapes and errors as in `smooth_ece`."""
    p, y, w = _checked_forecast(probabilities, labels, weights)
    return float(w @ (p - y) ** 2)


class BrierParts(NamedTuple):
    """Brier = reliability − resolution + uncertainty; all three are >= 0."""

    reliability: float
    resolution: float
    uncertainty: float


def brier_parts(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> BrierParts:
    """What of the Brier score is miscalibration, what the forecast knows, what lies in the labels.

    Without bins: the forecast is compared with its isotonic recalibration (Dimitriadis, Gneiting &
    Jordan, PNAS 2021), so the sum is exact. Shapes and errors as in `smooth_ece`.
    """
    p, y, w = _checked_forecast(probabilities, labels, weights)
    recalibrated = _isotonic(p, y, w)
    base = float(w @ y)
    score, best = float(w @ (p - y) ** 2), float(w @ (recalibrated - y) ** 2)
    uncertainty = base * (1 - base)
    return BrierParts(max(0.0, score - best), max(0.0, uncertainty - best), uncertainty)


def log_loss(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """The mean of −log P(label), in nats, >= 0; probabilities are cut at 1e-15 from 0 and 1.

    Shapes and errors as in `smooth_ece`.
    """
    p, y, w = _checked_forecast(probabilities, labels, weights)
    right = np.clip(np.where(y > 0, p, 1 - p), 1e-15, 1.0)
    return float(-(w @ np.log(right)))


# --- How well scores tell right from wrong ------------------------------------------------------


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The share of (1, 0) pairs of labels that the scores order rightly, ties counting half.

    scores [N], larger for label 1; labels [N], 0 or 1. NaN when only one label occurs.
    Raises ValueError when the shapes differ.
    """
    s, y = _checked_scores(scores, labels)
    n_ones = int(y.sum())
    n_zeros = y.size - n_ones
    if not n_ones or not n_zeros:
        return float("nan")
    above = float(_mean_ranks(s)[y].sum()) - n_ones * (n_ones + 1) / 2
    return above / (n_ones * n_zeros)


def aurc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the risk-coverage curve, in [0, 1], smaller is better (Geifman & El-Yaniv 2017).

    The mean over k of the share of label 0 among the k best-scored rows; equal scores count as
    shuffled. scores [N], labels [N]. Raises ValueError when the shapes differ or N < 1.
    """
    s, y = _checked_scores(scores, labels)
    if y.size == 0:
        raise ValueError("A risk-coverage curve needs at least one row.")
    _, group, counts = np.unique(-s, return_inverse=True, return_counts=True)
    wrong = np.bincount(group, weights=~y) / counts  # expected over the orders of equal scores
    return _mean_of_running_means(np.repeat(wrong, counts))


def excess_aurc(scores: ArrayLike, labels: ArrayLike) -> float:
    """AURC less that of the best possible order of the same labels: 0 is perfect."""
    return aurc(scores, labels) - _mean_of_running_means(np.sort(~np.asarray(labels, dtype=bool)))


# --- Intervals ----------------------------------------------------------------------------------


def binomial_cdf(n: int, p: float) -> NDArray[np.float64]:
    """P(at most m of n succeed), for m = 0…n: [n + 1]. Raises ValueError outside n >= 0, [0, 1]."""
    if n < 0 or not 0.0 <= p <= 1.0:
        raise ValueError(f"A binomial needs n >= 0 and 0 <= p <= 1, not {n} and {p}.")
    if p in (0.0, 1.0):
        return np.where(np.arange(n + 1) >= n * p, 1.0, 0.0)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # log m!
    m = np.arange(n + 1)
    terms = logs[n] - logs - logs[::-1] + m * math.log(p) + (n - m) * math.log1p(-p)
    cdf: NDArray[np.float64] = np.minimum(np.cumsum(np.exp(terms)), 1.0)
    return cdf


def clopper_pearson(n_hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson 1934), by bisection of the binomial.

    Covers the truth with at least `level`. Raises ValueError for n < 1, impossible hits or level.
    """
    if n < 1 or not 0 <= n_hits <= n or not 0.0 < level < 1.0:
        raise ValueError(f"{n_hits} of {n} at level {level} is not a proportion.")
    tail = (1 - level) / 2
    low = 0.0 if n_hits == 0 else _where_falls(lambda p: binomial_cdf(n, p)[n_hits - 1], 1 - tail)
    high = 1.0 if n_hits == n else _where_falls(lambda p: binomial_cdf(n, p)[n_hits], tail)
    return low, high


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: ArrayLike,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic when whole groups (queries) are drawn anew.

    statistic: row numbers [n] -> float; groups [N] names the group of each row. Rows of one query
    go together, so drawing rows would make the interval too narrow. NaN draws are left out.
    Raises ValueError for no rows or no draw with a value.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if group.size == 0:
        raise ValueError("A bootstrap needs at least one row.")
    order = np.argsort(group, kind="stable")
    count = np.bincount(group)
    first = np.cumsum(count) - count  # where in `order` the rows of a group begin
    rng = np.random.default_rng(seed)

    def draw() -> NDArray[np.int64]:
        drawn = rng.integers(0, len(count), len(count))
        n_rows = count[drawn]
        shift = first[drawn] - (np.cumsum(n_rows) - n_rows)
        rows: NDArray[np.int64] = order[np.repeat(shift, n_rows) + np.arange(n_rows.sum())]
        return rows

    draws = [statistic(draw()) for _ in range(n_resamples)]
    values = np.array([value for value in draws if not math.isnan(value)])
    if values.size == 0:
        raise ValueError("No resample gave a value: both labels must occur in several groups.")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- Their parts --------------------------------------------------------------------------------

# Cells of [0, 1] that residuals are gathered in: a fifth of the smallest error seen in practice.
_SMECE_CELLS = 2048


def _checked_forecast(
    probabilities: ArrayLike, labels: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    w = np.ones_like(p) if weights is None else np.asarray(weights, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or p.shape != y.shape or p.shape != w.shape:
        raise ValueError(
            f"Probabilities {p.shape}, labels {y.shape} and weights {w.shape} must all be [N], "
            "N >= 1."
        )
    if not ((p >= 0) & (p <= 1)).all() or not ((y == 0) | (y == 1)).all():
        raise ValueError("Probabilities must lie in [0, 1] and labels be 0 or 1.")
    if not np.isfinite(w).all() or w.min() < 0 or w.sum() == 0:
        raise ValueError("Weights must be finite, >= 0 and not all 0.")
    return p, y, w / w.sum()


def _checked_scores(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if s.ndim != 1 or s.shape != y.shape:
        raise ValueError(f"Scores {s.shape} and labels {y.shape} must both be [N].")
    return s, y


def _residual_waves(
    p: NDArray[np.float64], residual: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """The residuals gathered in cells of [0, 1], mirrored at 1, as Fourier coefficients."""
    cell = np.minimum((p * _SMECE_CELLS).astype(np.int64), _SMECE_CELLS - 1)
    mass = np.bincount(cell, weights=residual, minlength=_SMECE_CELLS)
    return np.fft.rfft(np.concatenate([mass, mass[::-1]]))


def _smoothed_error(waves: NDArray[np.complex128], sigma: float) -> float:
    """smECE_σ: a Gaussian reflected at both ends damps wave k by exp(−(πkσ)²/2)."""
    k = np.arange(waves.size)
    damped = waves * np.exp(-0.5 * (np.pi * k * sigma) ** 2)
    return float(np.abs(np.fft.irfft(damped)[:_SMECE_CELLS]).sum())


def _isotonic(
    p: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The non-decreasing function of p closest to y: pool adjacent violators, equal p as one."""
    _, group = np.unique(p, return_inverse=True)
    weight = np.bincount(group, weights=w)
    total = np.bincount(group, weights=w * y)
    pools: list[tuple[float, float, int]] = []  # (weight, total, how many groups)
    for pool in zip(weight.tolist(), total.tolist(), [1] * weight.size, strict=True):
        while pools and pools[-1][1] * pool[0] >= pool[1] * pools[-1][0]:
            last = pools.pop()
            pool = (pool[0] + last[0], pool[1] + last[1], pool[2] + last[2])
        pools.append(pool)
    values = np.array([t / m if m > 0 else 0.0 for m, t, _ in pools])
    fitted: NDArray[np.float64] = np.repeat(values, [n for _, _, n in pools])[group]
    return fitted


def _mean_of_running_means(values: NDArray[Any]) -> float:
    return float((np.cumsum(values) / np.arange(1, values.size + 1)).mean())


def _where_falls(falling: Callable[[float], float], target: float) -> float:
    """Where a function of [0, 1] that falls passes the target."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > target else (low, middle)
    return (low + high) / 2


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
