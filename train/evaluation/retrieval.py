"""Retrieval of images by texts and of texts by images, with any number of right answers.

Four scores, all of them means' product less some uncertainties u (ProLIP's evaluation, and CSD):

    csd         μ·μ − (u_text + u_image) / 2
    cosine      μ·μ
    text term   μ·μ − u_text / 2
    image term  μ·μ − u_image / 2

The query's own u is the same for everything it could find, so it never changes the order. What is
left are two orders in each direction, with the items' u and without: for text→image csd and image
term are one order, cosine and text term the other; for image→text it is csd and text term.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from prolip_search.gaussians import Gaussians
from prolip_search.rankings import average_precision_at_r, positive_ranks, r_precision
from prolip_search.train.evaluation.estimates import Estimate
from prolip_search.train.evaluation.intervals import Means, clustered_means

__all__ = ["DIRECTIONS", "MEASURES", "SCORES", "Direction", "Matches", "Ranking", "Retrieval",
           "fold_means", "own_matches", "retrieve"]  # fmt: skip

Direction = Literal["t2i", "i2t"]
Score = Literal["csd", "cosine", "text term", "image term"]
Rows = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

DIRECTIONS: tuple[Direction, ...] = ("t2i", "i2t")
KS = (1, 5, 10)
MEASURES = (*(f"R@{k}" for k in KS), "mAP@R", "R-precision")
# Which scores take the uncertainty of the items that are ranked into account.
WITH_ITEM_TERM: dict[Score, tuple[Direction, ...]] = {
    "csd": ("t2i", "i2t"),
    "cosine": (),
    "text term": ("i2t",),
    "image term": ("t2i",),
}
SCORES: tuple[Score, ...] = tuple(WITH_ITEM_TERM)
# Pairs whose distances exist at once: two arrays of 64 MiB.
N_PAIRS_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class Matches:
    """Which texts fit which images: rows, −1 for a match that is not among the rows at all.

    texts_of: for each of N images; images_of: for each of T texts. Where the list is empty, nobody
    asks with that image or text; it is still there to be found.
    """

    name: str
    texts_of: Sequence[Rows]
    images_of: Sequence[Rows]


@dataclass(frozen=True, eq=False)
class Ranking:
    """How Q queries of one direction fared in one order of N items.

    queries [Q]: their rows. images [Q]: the image that each belongs to, for intervals. first [Q]:
    the rank of the best-placed match. ap_at_r, r_precision [Q] in [0, 1]. n_matches [Q].
    """

    queries: Rows
    images: Rows
    first: Rows
    ap_at_r: Doubles
    r_precision: Doubles
    n_matches: Rows
    n_items: int

    def per_query(self) -> Doubles:
        """The `MEASURES` in percent, [Q, 5]; their means over queries are what is reported."""
        recalls = [self.first <= k for k in KS]
        return 100.0 * np.stack([*recalls, self.ap_at_r, self.r_precision], axis=1)

    @cached_property
    def means(self) -> Means:
        """The `MEASURES` in percent [5], with draws over images."""
        return clustered_means(self.per_query(), self.images)

    def estimates(self) -> dict[str, Estimate]:
        """The `MEASURES` in percent with 95 % intervals over images."""
        numbers = zip(MEASURES, self.means.value, *self.means.interval(), strict=True)
        return {name: Estimate(float(v), float(low), float(high)) for name, v, low, high in numbers}

    def chance(self) -> Doubles:
        """What a random order gives on average, in percent [5]; NaN for mAP@R."""
        share = [100.0 * self._chance_within(k) for k in KS]
        return np.array([*share, np.nan, 100.0 * float((self.n_matches / self.n_items).mean())])

    def _chance_within(self, k: int) -> float:
        """1 − Π (N − R − j) / (N − j): the hypergeometric chance of a match among the first k."""
        missed = np.ones(len(self.first))
        for j in range(min(k, self.n_items)):
            missed *= np.maximum(self.n_items - self.n_matches - j, 0) / (self.n_items - j)
        return float(1 - missed.mean())


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Both directions in both orders; `of` gives the one that a score stands for."""

    matches: str
    with_item_term: dict[Direction, Ranking]
    without: dict[Direction, Ranking]

    def of(self, score: Score, direction: Direction) -> Ranking:
        """Raises KeyError for a score or direction that there is not."""
        with_term = direction in WITH_ITEM_TERM[score]
        return (self.with_item_term if with_term else self.without)[direction]


def own_matches(owners: Rows, n_images: int) -> Matches:
    """Each text fits the image that it was written for and no other. owners [T]."""
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=n_images))
    texts_of = np.split(order, ends[:-1])
    return Matches("captions", texts_of, list(owners[:, None]))


def retrieve(images: Gaussians, texts: Gaussians, owners: Rows, matches: Matches) -> Retrieval:
    """Ranks all texts for each image and all images for each text.

    images [N, D], texts [T, D], owners [T]. Blocks of queries keep the memory at 128 MiB beside the
    Gaussians. Raises ValueError when matches or owners are of other lengths.
    """
    if len(matches.texts_of) != len(images) or len(matches.images_of) != len(texts):
        raise ValueError(
            f"matches are of {len(matches.texts_of)} images and {len(matches.images_of)} texts, "
            f"not of {len(images)} and {len(texts)}."
        )
    if len(owners) != len(texts):
        raise ValueError(f"owners {owners.shape} must be [T], T = {len(texts)}.")
    t2i = _both_orders(texts, images, matches.images_of, owners)
    i2t = _both_orders(images, texts, matches.texts_of, np.arange(len(images)))
    return Retrieval(
        matches.name,
        with_item_term={"t2i": t2i[0], "i2t": i2t[0]},
        without={"t2i": t2i[1], "i2t": i2t[1]},
    )


def fold_means(
    images: Gaussians, texts: Gaussians, owners: Rows, n_folds: int
) -> dict[tuple[Score, Direction], Doubles]:
    """`MEASURES` in percent [5], the mean over galleries of N / n_folds images and their texts.

    The images of a fold follow one another, as in the five 1,000s of COCO's 5,000; a rest that
    fills no fold is left out. Raises ValueError for fewer images than folds.
    """
    size = len(images) // n_folds
    if n_folds < 1 or size < 1:
        raise ValueError(f"{len(images)} images cannot make {n_folds} folds.")
    folds = []
    for first in range(0, n_folds * size, size):
        rows = np.flatnonzero((owners >= first) & (owners < first + size))
        some = images[first : first + size]
        own = owners[rows] - first
        folds.append(retrieve(some, texts[rows], own, own_matches(own, size)))
    return {
        (score, direction): np.mean(
            [fold.of(score, direction).per_query().mean(axis=0) for fold in folds], axis=0
        )
        for score in SCORES
        for direction in DIRECTIONS
    }


def _both_orders(
    queries: Gaussians, items: Gaussians, matches: Sequence[Rows], images: Rows
) -> tuple[Ranking, Ranking]:
    """By the items' uncertainty too, and by cosine alone."""
    asked = np.array([row for row, some in enumerate(matches) if len(some)], dtype=np.int64)
    if asked.size == 0:
        raise ValueError("No query has a match.")
    half = items.uncertainty / 2
    found: tuple[list[_Found], list[_Found]] = ([], [])
    for rows in _blocks(asked, len(items)):
        right = [matches[row] for row in rows]
        distance = -(queries.mean[rows] @ items.mean.T)
        found[1].extend(_measured(distance, right))
        distance += half
        found[0].extend(_measured(distance, right))
    with_term, without = (_ranking(some, asked, images[asked], len(items)) for some in found)
    return with_term, without


_Found = tuple[int, float, float, int]  # first rank, AP@R, R-precision, number of matches


def _measured(distance: npt.NDArray[np.float32], right: Sequence[Rows]) -> Iterator[_Found]:
    for ranks in positive_ranks(distance, right):
        yield int(ranks[0]), average_precision_at_r(ranks), r_precision(ranks), len(ranks)


def _ranking(found: list[_Found], queries: Rows, images: Rows, n_items: int) -> Ranking:
    first, ap_at_r, precision, n_matches = (np.array(some) for some in zip(*found, strict=True))
    return Ranking(queries, images, first, ap_at_r, precision, n_matches, n_items)


def _blocks(rows: Rows, n_items: int) -> Iterator[Rows]:
    size = max(1, N_PAIRS_AT_ONCE // max(1, n_items))
    return (rows[first : first + size] for first in range(0, len(rows), size))
