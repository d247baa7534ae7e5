"""Whether uncertainty behaves: larger for what fails, for what says less, for what is more general.

Functions of Gaussians and texts, so they serve heads in training and shipped encoders alike. Shares
and correlations come with intervals over photos (`estimates.py`), chains with Wilson's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from prolip_search.distances import inclusion_rows
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import spearman, wilson_interval
from prolip_search.train.evaluation.estimates import Estimate, estimate, mean_estimate
from prolip_search.train.masking import words_of

__all__ = [
    "Binned",
    "ChainLinks",
    "LengthRow",
    "Lengths",
    "Reduction",
    "Spread",
    "agreement",
    "binned",
    "chain_links",
    "inclusion_share",
    "length_correlation",
    "lengths",
    "pearson",
    "read_chains",
    "reduction",
]

N_BINS = 10
Doubles = npt.NDArray[np.float64]


# --- Uncertainty against failure ----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Binned:
    """A metric in bins of equally many items, the most certain first (ProLIP's uncertainty plots).

    uncertainty, metric, low, high [B]: mean u of each bin, mean metric, and the metric's interval.
    r: Pearson's, between the number of a bin and its metric; −1 is ideal. rho: Spearman's, between
    uncertainty and metric item by item: how much of the order lies within bins r cannot say.
    """

    name: str
    n_items: int
    uncertainty: Doubles
    metric: Doubles
    low: Doubles
    high: Doubles
    r: Estimate
    rho: Estimate

    def to_json(self) -> dict[str, Any]:
        """All of it; the bins as lists."""
        return {
            "items": self.n_items,
            "pearson of bin and metric": self.r.to_json(),
            "spearman of uncertainty and metric": self.rho.to_json(),
            "bins": {
                "uncertainty": self.uncertainty.tolist(),
                "metric": self.metric.tolist(),
                "interval": np.stack([self.low, self.high], axis=1).tolist(),
            },
        }


def binned(
    name: str,
    uncertainty: ArrayLike,
    metric: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    n_bins: int = N_BINS,
) -> Binned:
    """Uncertainty [N] against a metric [N] of the same items, larger being better.

    groups [N]: items drawn together for the intervals (captions of a photo), else each by itself.
    Raises TrainingDataError for fewer items than bins.
    """
    u, m = np.asarray(uncertainty, dtype=np.float64), np.asarray(metric, dtype=np.float64)
    if len(u) < n_bins:
        raise TrainingDataError(
            f"{name}: {len(u)} items cannot fill {n_bins} bins; evaluate on at least {n_bins}."
        )
    owner = np.arange(len(u)) if groups is None else np.asarray(groups)
    bins = np.array_split(np.argsort(u, kind="stable"), n_bins)
    shares = [mean_estimate(m[rows], owner[rows]) for rows in bins]
    return Binned(
        name=name,
        n_items=len(u),
        uncertainty=np.array([u[rows].mean() for rows in bins]),
        metric=np.array([share.value for share in shares]),
        low=np.array([share.low for share in shares]),
        high=np.array([share.high for share in shares]),
        r=estimate(lambda rows: _bin_correlation(u[rows], m[rows], n_bins), owner),
        rho=estimate(lambda rows: spearman(u[rows], m[rows]), owner),
    )


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of x [N] and y [N] in [−1, 1]; NaN when either is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def _bin_correlation(u: Doubles, metric: Doubles, n_bins: int) -> float:
    ordered = metric[np.argsort(u, kind="stable")]
    means = [some.mean() for some in np.array_split(ordered, n_bins)]
    return pearson(np.arange(n_bins), means)


# --- Uncertainty against how much is said -------------------------------------------------------


@dataclass(frozen=True)
class LengthRow:
    """Texts of one length: how many, and the quartiles of their uncertainty."""

    n_words: int
    n_texts: int
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class Lengths:
    """Uncertainty by length in words. rho: Spearman's; −1 when every word makes more certain."""

    name: str
    rho: Estimate
    rows: tuple[LengthRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The correlation and a row for each length."""
        rows = [
            {"words": row.n_words, "texts": row.n_texts, "quartiles of u": list(row.quartiles)}
            for row in self.rows
        ]
        return {"spearman of words and uncertainty": self.rho.to_json(), "by length": rows}


def lengths(
    name: str, texts: Sequence[str], uncertainty: ArrayLike, groups: ArrayLike | None = None
) -> Lengths:
    """Texts [T] with their uncertainty [T]; groups [T] as in `binned`."""
    u = np.asarray(uncertainty, dtype=np.float64)
    n_words = np.array([len(words_of(text)) for text in texts])
    owner = np.arange(len(u)) if groups is None else np.asarray(groups)
    rows = []
    for length in np.unique(n_words).tolist():
        some = u[n_words == length]
        low, middle, high = np.quantile(some, (0.25, 0.5, 0.75)).tolist()
        rows.append(LengthRow(length, len(some), (low, middle, high)))
    rho = estimate(lambda some: spearman(n_words[some], u[some]), owner)
    return Lengths(name, rho, tuple(rows))


def length_correlation(texts: Sequence[Sequence[str]], gaussians: Sequence[Gaussians]) -> float:
    """Spearman's ρ between length in words and uncertainty, over several sets of texts together."""
    n_words = [len(words_of(text)) for some in texts for text in some]
    return spearman(n_words, np.concatenate([some.uncertainty for some in gaussians]))


# --- A whole against a part of it ---------------------------------------------------------------


@dataclass(frozen=True)
class Reduction:
    """Wholes against forms that say less. All figures are shares of pairs but `growth`.

    more_uncertain: the part has the larger u. included: H(whole ⊂ part) > 0. growth: the geometric
    mean of u(part)/u(whole). In the ideal 1, 1, and above 1.
    """

    name: str
    n_pairs: int
    more_uncertain: Estimate
    included: Estimate
    growth: Estimate

    def to_json(self) -> dict[str, Any]:
        """The figures under the words of the report."""
        return {
            "pairs": self.n_pairs,
            "more uncertain": self.more_uncertain.to_json(),
            "whole in part, H": self.included.to_json(),
            "growth of u": self.growth.to_json(),
        }


def reduction(
    name: str, whole: Gaussians, part: Gaussians, groups: ArrayLike | None = None
) -> Reduction:
    """Row by row, whole [N, D] against part [N, D]; groups [N] as in `binned`."""
    growth = np.log(part.uncertainty.astype(np.float64) / whole.uncertainty)
    logarithm = mean_estimate(growth, groups)
    return Reduction(
        name=name,
        n_pairs=len(whole),
        more_uncertain=mean_estimate(part.uncertainty > whole.uncertainty, groups),
        included=mean_estimate(inclusion_rows(whole, part) > 0, groups),
        growth=Estimate(
            *(float(np.exp(x)) for x in (logarithm.value, logarithm.low, logarithm.high))
        ),
    )


def agreement(inner: Gaussians, outer: Gaussians) -> float:
    """The share of rows in which `outer` has the larger uncertainty."""
    return float((outer.uncertainty > inner.uncertainty).mean())


def inclusion_share(inner: Gaussians, outer: Gaussians) -> float:
    """The share of rows in which H(inner ⊂ outer) > 0."""
    return float((inclusion_rows(inner, outer) > 0).mean())


# --- The general against the special ------------------------------------------------------------


@dataclass(frozen=True)
class ChainLinks:
    """Of all links from a phrase to the next, more special one: how many u and H order rightly.

    Chance is one half of them.
    """

    n_chains: int
    n_links: int
    by_u: int
    by_h: int

    def share(self, n_right: int) -> Estimate:
        """The share of links, with Wilson's interval."""
        return Estimate(n_right / self.n_links, *wilson_interval(n_right, self.n_links))

    def to_json(self) -> dict[str, Any]:
        """Counts, and shares with Wilson's interval."""
        figures: dict[str, Any] = {"chains": self.n_chains, "links": self.n_links}
        for name, n_right in (("u", self.by_u), ("H", self.by_h)):
            share = self.share(n_right)
            figures[name] = {
                "right": n_right,
                "share": share.value,
                "interval": [share.low, share.high],
            }
        return figures


def read_chains(file: Path) -> list[list[str]]:
    """The chains of a .toml file: `chains = [["an animal", "a dog"], …]`, general to special.

    Raises TrainingDataError.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8")).get("chains")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingDataError(f"{file} cannot be read: {error}.") from error
    lists = isinstance(found, list) and all(isinstance(chain, list) for chain in found)
    if not found or not lists or not all(isinstance(p, str) and p for c in found for p in c):
        raise TrainingDataError(
            f'{file} has no chains; write chains = [["an animal", "a dog", "a beagle"], …].'
        )
    return [list(chain) for chain in found]


def chain_links(phrases: Gaussians, n_phrases: Sequence[int]) -> ChainLinks:
    """Chains end to end, each from general to special: phrases [sum of n_phrases, D].

    Raises TrainingDataError when no chain has two phrases.
    """
    starts = np.cumsum([0, *n_phrases]).tolist()
    general = [row for start, end in pairwise(starts) for row in range(start, end - 1)]
    if not general:
        raise TrainingDataError("A chain needs two phrases: the more general, the more special.")
    rows = np.array(general)
    wide, narrow = phrases[rows], phrases[rows + 1]
    return ChainLinks(
        n_chains=len(n_phrases),
        n_links=len(rows),
        by_u=round(agreement(narrow, wide) * len(rows)),
        by_h=round(inclusion_share(narrow, wide) * len(rows)),
    )


# --- How much there is of it --------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The distribution of uncertainty: mean, and quantiles at 0, 5, 50, 95 and 100 %."""

    mean: float
    quantiles: tuple[float, float, float, float, float]

    @classmethod
    def of(cls, uncertainty: ArrayLike) -> Spread:
        """Of N values."""
        u = np.asarray(uncertainty, dtype=np.float64)
        least, low, middle, high, most = np.quantile(u, (0, 0.05, 0.5, 0.95, 1)).tolist()
        return cls(float(u.mean()), (least, low, middle, high, most))

    def to_json(self) -> dict[str, Any]:
        """Both."""
        return {"mean": self.mean, "quantiles at 0, 5, 50, 95, 100 %": list(self.quantiles)}
