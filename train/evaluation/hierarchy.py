"""From an image's nearest caption to its root: does the way between pass its own hierarchy?

The traversal of HierarCaps (Alper & Averbuch-Elor, ECCV 2024) as ProLIP does it: the root is
estimated for each image as the caption that includes it most, on request averaged with the mean of
the empty text; 50 points lie on the line from the mean of the nearest caption to the root; the
captions nearest to them, by cosine, are the set that is held against the image's gold captions.
Normalising a point changes its length and not which caption is nearest by cosine, so no point is
ever formed: along the line, each caption's product goes linearly from the one end's to the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prolip_search.distances import csd, inclusion, membership
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from prolip_search.train.evaluation.estimates import Estimate, mean_estimate
from prolip_search.train.reference_losses import reference_inclusion_test

__all__ = [
    "ROOTS",
    "Gold",
    "Traversal",
    "gold_of",
    "one_sided_test",
    "open_nested",
    "split_chains",
    "traversals",
    "walk",
]

N_POINTS = 50
ARROW = "=>"  # between the captions of a chain in HierarCaps's own file
HIERARCAPS_KEY = "image_url"
RELEASED = "released"
BLOCK_ELEMENTS = 1 << 22
SHORTEST = 1e-6  # of a sum of unit vectors that is still a direction

Scores = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Chains = Sequence[Sequence[str]]  # of one image: chains of captions, the most general first


def one_sided_test(images: Gaussians, texts: Gaussians) -> Scores:
    """The released test of image ⊂ text, its log-normaliser doubled: [N, D], [T, D] -> [N, T].

    Summed over dimensions, ε 0: what the released traversal finds its root by (PROLIP.md §10).
    """
    first = [torch.from_numpy(part.copy())[:, None] for part in (images.mean, images.log_variance)]
    other = [torch.from_numpy(part.copy())[None] for part in (texts.mean, texts.log_variance)]
    step = max(1, BLOCK_ELEMENTS // (texts.mean.size or 1))
    rows = [
        reference_inclusion_test(
            (first[0][start : start + step], first[1][start : start + step]),
            (other[0], other[1]),
            eps=0.0,
        ).sum(dim=-1)
        for start in range(0, len(images), step)
    ]
    scores: Scores = torch.cat(rows).numpy()
    return scores


# How each image's root is found: the caption with the largest value. [N, D], [T, D] -> [N, T]
# J finds the same as M: they differ by a term of the image alone. H grows with distance.
ROOTS: dict[str, Callable[[Gaussians, Gaussians], Scores]] = {
    "H": inclusion,
    "M": membership,
    RELEASED: one_sided_test,
}


# --- What should be found -----------------------------------------------------------------------


def open_nested(
    path: Path, *, split: str | None = None, images: Path | None = None
) -> CaptionedImages:
    """Images with captions from general to special, as `open_captioned` reads them.

    HierarCaps's own .csv (columns id, captions with arrows, image_url) takes its images, by the
    names at the end of their URLs, from the folder `images`. Raises TrainingDataError.
    """
    key = None
    if path.suffix == ".csv" and path.is_file():
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            key = HIERARCAPS_KEY if HIERARCAPS_KEY in lines.readline() else None
    return open_captioned(path, split=split, images=images, image_key=key)


@dataclass(frozen=True, eq=False)
class Gold:
    """T different captions of N images, and which of them belong to which.

    chains [N]: of each image its chains, each the rows of its captions from general to special.
    """

    texts: Sequence[str]
    chains: Sequence[Sequence[Ints]]

    def precision(self, image: int, found: Ints) -> float:
        """The share of what was found that is in one of the image's chains."""
        return float(np.isin(found, np.concatenate(self.chains[image])).mean())

    def recall(self, image: int, found: Ints) -> float:
        """The share of levels of which a caption was found; of several chains any will do."""
        chains = self.chains[image]
        n_levels = max(len(chain) for chain in chains)
        levels = (
            np.array([c[level] for c in chains if level < len(c)]) for level in range(n_levels)
        )
        return float(np.mean([np.isin(level, found).any() for level in levels]))


def split_chains(captions: Sequence[str]) -> Chains:
    """Captions of one image -> its chains: each text with arrows is one, else all together are."""
    if any(ARROW in caption for caption in captions):
        return [[part.strip() for part in caption.split(ARROW)] for caption in captions]
    return [list(captions)]


def gold_of(data: CaptionedImages) -> Gold:
    """The chains of a data set whose captions run from the most general to the most special.

    Raises TrainingDataError when an image has a chain of fewer than two different captions.
    """
    row_of: dict[str, int] = {}
    chains = []
    for name, captions in zip(data.ids, data.captions, strict=True):
        of_image = split_chains(captions)
        for chain in of_image:
            if len(set(chain)) < 2 or not all(chain):
                raise TrainingDataError(
                    f"{name} of {data.name} has no chain of captions, from general to special "
                    f"(found {list(chain)}); give each image two or more."
                )
        chains.append(
            [np.array([row_of.setdefault(text, len(row_of)) for text in c]) for c in of_image]
        )
    return Gold(list(row_of), chains)


# --- The way ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Traversal:
    """What one way of finding the root gave, image by image.

    precision, recall, n_found [N]. own_root [N]: 1 where the root is one of the image's captions.
    n_roots: how many different captions are a root; 0, with own_root NaN, where none is.
    """

    root: str
    with_empty: bool
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    n_found: Ints
    own_root: npt.NDArray[np.float64]
    n_roots: int

    @property
    def name(self) -> str:
        """Of the root, with `+ “”` where the empty text has a part in it."""
        return f"{self.root} + “”" if self.with_empty else self.root

    def estimates(self) -> dict[str, Estimate]:
        """Means over images: precision, recall, captions found, own root, with intervals."""
        return {
            "precision": mean_estimate(self.precision),
            "recall": mean_estimate(self.recall),
            "found": mean_estimate(self.n_found),
            "own root": mean_estimate(self.own_root if self.n_roots else []),
        }

    def less(self, other: Traversal) -> dict[str, Estimate]:
        """By how much precision and recall are above another's, with intervals over images."""
        return {
            "precision": mean_estimate(self.precision - other.precision),
            "recall": mean_estimate(self.recall - other.recall),
        }


def walk(starts: Scores, ends: Scores, n_points: int = N_POINTS) -> list[Ints]:
    """The captions nearest to n_points on the line between two means: N times their rows.

    starts, ends [N, T]: the products of both ends with the mean of every caption.
    """
    share = np.linspace(0, 1, n_points, dtype=starts.dtype)[:, None]
    return [
        np.unique(((1 - share) * start + share * end).argmax(axis=1)).astype(np.int64)
        for start, end in zip(starts, ends, strict=True)
    ]


def traversals(
    images: Gaussians, texts: Gaussians, empty: Gaussians, gold: Gold, n_points: int = N_POINTS
) -> list[Traversal]:
    """Every root without and with the empty text; then two floors: its mean alone, and no way.

    images [N, D]; texts [T, D], of `gold.texts`; empty [1, D]. Nearest by CSD where the image
    asks, by cosine along the way. "nearest" is the nearest caption alone. Costs N·T·D three times.
    """
    products = texts.mean @ texts.mean.T  # [T, T]
    to_empty = texts.mean @ empty.mean[0]  # [T]
    nearest = csd(images, texts).argmin(axis=1)
    starts = products[nearest]

    def measured(
        root: str, with_empty: bool, found: list[Ints], roots: Ints | None = None
    ) -> Traversal:
        own = (
            []
            if roots is None
            else [gold.precision(i, row) for i, row in enumerate(roots[:, None])]
        )
        return Traversal(
            root,
            with_empty,
            precision=np.array([gold.precision(i, rows) for i, rows in enumerate(found)]),
            recall=np.array([gold.recall(i, rows) for i, rows in enumerate(found)]),
            n_found=np.array([len(rows) for rows in found]),
            own_root=np.array(own) if own else np.full(len(found), np.nan),
            n_roots=0 if roots is None else len(np.unique(roots)),
        )

    results = []
    for name, score in ROOTS.items():
        root = score(images, texts).argmax(axis=1)
        results.append(measured(name, False, walk(starts, products[root], n_points), root))
        # |μ₁ + μ₂|² = 2 + 2 μ₁·μ₂ of unit means: the averaged root has unit length as well.
        length = np.sqrt(np.maximum(2 + 2 * to_empty[root], SHORTEST**2))[:, None]
        ends = (products[root] + to_empty) / length
        results.append(measured(name, True, walk(starts, ends, n_points), root))
    ends = np.broadcast_to(to_empty, starts.shape)
    results.append(measured("“” alone", False, walk(starts, ends, n_points)))
    results.append(measured("nearest", False, [np.array([row]) for row in nearest.tolist()]))
    return results
