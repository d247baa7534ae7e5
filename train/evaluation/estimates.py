"""A figure and how far to trust it: value and 95 % interval, by a bootstrap over whole groups.

Rows that belong together (the captions of a photo) are drawn together: one by one they would pass
for more evidence than they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from prolip_search.metrics import bootstrap_interval
from prolip_search.train.evaluation.intervals import clustered_means

__all__ = ["Estimate", "estimate", "mean_estimate"]

N_RESAMPLES = 1000
NOT_A_NUMBER = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval. NaN where the data does not say."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """`{"value": …, "interval": [low, high]}`."""
        return {"value": self.value, "interval": [self.low, self.high]}

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    statistic: Callable[[npt.NDArray[np.int64]], float], groups: ArrayLike, *, seed: int = 0
) -> Estimate:
    """A statistic of all rows, and its interval when groups are drawn anew.

    statistic: row numbers [n] -> float. groups [N] names the group of each row.
    """
    value = statistic(np.arange(len(np.asarray(groups))))
    try:
        low, high = bootstrap_interval(statistic, groups, n_resamples=N_RESAMPLES, seed=seed)
    except ValueError:  # no resample has a value, or there are no rows
        low = high = NOT_A_NUMBER
    return Estimate(float(value), low, high)


def mean_estimate(values: ArrayLike, groups: ArrayLike | None = None, *, seed: int = 0) -> Estimate:
    """The mean of values [N], and its interval; the same as `estimate` of a mean, much faster.

    groups [N], else each value is one of its own.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        return Estimate(NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER)
    owner = np.arange(len(numbers)) if groups is None else groups
    means = clustered_means(numbers[:, None], owner, n_resamples=N_RESAMPLES, seed=seed)
    low, high = means.interval()
    return Estimate(float(means.value[0]), float(low[0]), float(high[0]))
