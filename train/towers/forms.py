"""What goes through the towers at a step: a batch whole, and its first pairs masked.

Masked images are the same images with some patches taken out, one random choice for the whole
batch; masked texts have tokens replaced by the mask token, a choice for each. As in the released
code the masked forms are those of the first n pairs of each process's batch, so that they cost
little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prolip_search.encoders.config import VisionConfig
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.towers.config import MaskingConfig

__all__ = ["Forms", "MaskTokens", "Masking", "masked_pairs", "parts_of"]


class Forms(NamedTuple):
    """B pairs, and the masked forms of the first n; None where there are none."""

    pixels: Tensor  # [B, 3, H, W]
    ids: Tensor  # [B, L]
    masked_pixels: Tensor | None = None  # [n, 3, H, W]
    keep_patches: Tensor | None = None  # ascending numbers of the patches that stay
    masked_ids: Tensor | None = None  # [n, L]


Masking = Callable[[Batch, torch.Generator], Forms]


@dataclass(frozen=True)
class MaskTokens:
    """What stands for a masked token, and which ids are never masked: the end, padding."""

    mask_id: int
    never_masked: tuple[int, ...]


def masked_pairs(config: MaskingConfig, tokens: MaskTokens, vision: VisionConfig) -> Masking:
    """The masking of whole towers; pixels that come as bytes are normalised where they are."""
    preprocessing = ImagePreprocessing(size=vision.image_size)
    n_patches = vision.n_patches
    n_kept = max(1, int(config.share_of_patches_kept * n_patches))
    never = torch.tensor(tokens.never_masked)

    def mask(batch: Batch, generator: torch.Generator) -> Forms:
        batch = batch.normalised(preprocessing)
        n_masked = int(config.share_of_pairs * len(batch))
        if n_masked == 0:
            return Forms(batch.pixels, batch.ids)
        ids = batch.ids[:n_masked]
        # Drawn on the CPU, where a seed means the same whatever the device is.
        kept = torch.randperm(n_patches, generator=generator)[:n_kept].sort().values
        drawn = torch.rand(ids.shape, generator=generator) < config.share_of_tokens_masked
        replaced = drawn.to(ids.device) & ~torch.isin(ids, never.to(ids.device))
        return Forms(
            batch.pixels,
            batch.ids,
            batch.pixels[:n_masked],
            kept.to(batch.pixels.device),
            ids.masked_fill(replaced, tokens.mask_id),
        )

    return mask


def parts_of(forms: Forms, n_parts: int) -> list[Forms]:
    """The same pairs in `n_parts` of equal size, each with those of the masked forms it holds."""
    size = len(forms.pixels) // n_parts
    return [
        Forms(
            forms.pixels[start : start + size],
            forms.ids[start : start + size],
            _some(forms.masked_pixels, start, size),
            forms.keep_patches,
            _some(forms.masked_ids, start, size),
        )
        for start in range(0, len(forms.pixels), size)
    ]


def _some(masked: Tensor | None, start: int, size: int) -> Tensor | None:
    if masked is None or start >= len(masked):
        return None
    return masked[start : start + size]
