"""A world whose ambiguity is known: what an embedding leaves open is how it was made."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prolip_search.train.adapter.features import CaptionedPoints

DIM = 16


def ambiguous_world(n_images: int, seed: int) -> CaptionedPoints:
    """Photos and captions that share a direction, and captions that say too little.

    A caption that says less lies nearer the common direction of all captions, as a shortened one
    does in a CLIP, so its embedding shows how little it says.
    """
    rng = np.random.default_rng(seed)
    common = np.eye(DIM)[0]
    meant = rng.normal(size=(n_images, DIM)) * (1 - common)
    meant /= np.linalg.norm(meant, axis=1, keepdims=True)

    def said(share: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
        noise = 0.15 * rng.normal(size=(n_images, DIM))
        return torch.from_numpy(3 * (share * meant + (1 - share) * common + noise)).float()

    whole, short = rng.uniform(0.6, 1, (n_images, 1)), rng.uniform(0.1, 0.4, (n_images, 1))
    return CaptionedPoints(
        keys=[f"photo {number}" for number in range(n_images)],
        images=said(np.full((n_images, 1), 0.9)),
        captions=said(whole),
        shortened=torch.stack([said(short), said(short)]),
        first=torch.arange(n_images + 1),
    )
