"""What a training step takes: pixels, token ids, and the names to report."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prolip_search.encoders.preprocessing import ImagePreprocessing

__all__ = ["Batch"]


@dataclass(frozen=True, eq=False)
class Batch:
    """B pairs of image and caption.

    pixels: [B, 3, H, W], uint8 as decoded or float32 once normalised; for heads over frozen towers
    the cached features of the images. ids: token ids [B, L] int64; there, features of the texts.
    keys: B sample ids, for the report of a run that diverges.
    """

    pixels: Tensor
    ids: Tensor
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
        )

    def normalised(self, preprocessing: ImagePreprocessing) -> Batch:
        """uint8 pixels -> float32 (x / 255 − mean) / std, on their device; floats are left alone.

        Bytes are a quarter of what floats cost to carry to an accelerator.
        """
        if self.pixels.dtype != torch.uint8:
            return self
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        scale, shift = (1 / (255 * std)).float(), (mean / std).float()
        device = self.pixels.device
        pixels = self.pixels.float().mul_(scale.to(device)[:, None, None])
        return replace(self, pixels=pixels.sub_(shift.to(device)[:, None, None]))
