"""Retrieval both ways in six figures, for heads in training and the shipped encoder alike."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prolip_search.distances import csd
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import first_positive_ranks, recall_at_k

__all__ = ["Recalls", "retrieval"]

KS = (1, 5, 10)


@dataclass(frozen=True)
class Recalls:
    """Recall at 1, 5 and 10 in percent, text→image and image→text, and the sum of the six."""

    t2i: tuple[float, float, float]
    i2t: tuple[float, float, float]

    @property
    def rsum(self) -> float:
        """The sum of the six recalls, 600 at best."""
        return sum(self.t2i) + sum(self.i2t)

    def to_json(self) -> dict[str, Any]:
        """Both lists and their sum."""
        return {**asdict(self), "rsum": self.rsum}


def retrieval(
    images: Gaussians,
    texts: Gaussians,
    owners: npt.NDArray[np.int64],
    *,
    distractors: Gaussians | None = None,
) -> dict[str, Recalls]:
    """Recalls by `csd` and by `cosine`. owners [T]: the image that each text describes.

    distractors: images that no text describes; they enlarge the gallery of text→image.
    """
    gallery = images if distractors is None else Gaussians.concatenate([images, distractors])
    distances = {"csd": csd(texts, gallery), "cosine": -(texts.mean @ gallery.mean.T)}
    own = owners[:, None] == np.arange(len(gallery))
    recalls = {}
    for name, distance in distances.items():
        t2i = first_positive_ranks(distance, own)
        i2t = first_positive_ranks(distance[:, : len(images)].T, own[:, : len(images)].T)
        recalls[name] = Recalls(_percent(t2i), _percent(i2t))
    return recalls


def _percent(ranks: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    one, five, ten = (round(100 * recall_at_k(ranks, k), 2) for k in KS)
    return one, five, ten
