"""Photos that show less than the whole, so that uncertainty should grow and include the whole.

At the pixels, for any encoder: squares painted over, halves and borders cut off, blur. Inside the
image tower, where it can leave patches out: ProLIP's own masking, and mini's over its trunk's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter, ImageStat
from torch import Tensor

from prolip_search.encoders.encoder import TowerEncoder
from prolip_search.encoders.mini_towers import MiniTowers, image_tokens
from prolip_search.encoders.prolip import ProLIP
from prolip_search.encoders.protocol import Encoder, Pixels, TowerOutput
from prolip_search.encoders.torch_runtime import TorchTowers
from prolip_search.errors import ConfigError

__all__ = ["OCCLUSIONS", "PATCH_SHARES", "occlude", "patch_masked"]

N_SQUARES = 14  # a side: as many as a ViT-B/16 has patches at 224 pixels
BLUR = 0.04  # radius over the shorter side
PATCH_SHARES = (0.25, 0.75)  # of patches kept; ProLIP's training keeps 0.75

Occlusion = Callable[[Image.Image, np.random.Generator], Image.Image]


def _squares(share: float) -> Occlusion:
    def paint(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        kept = np.zeros(N_SQUARES**2, dtype=np.uint8)
        kept[rng.permutation(N_SQUARES**2)[: round(share * N_SQUARES**2)]] = 255
        mask = Image.fromarray(kept.reshape(N_SQUARES, N_SQUARES))
        mask = mask.resize(image.size, Image.Resampling.NEAREST)
        # The photo's own mean colour: its brightness tells nothing.
        colour = tuple(round(value) for value in ImageStat.Stat(image).mean)
        return Image.composite(image, Image.new("RGB", image.size, colour), mask)

    return paint


def _left_half(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.crop((0, 0, max(1, image.width // 2), image.height))


def _middle(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    left, top = image.width // 4, image.height // 4
    return image.crop((left, top, max(left + 1, 3 * left), max(top + 1, 3 * top)))


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR * min(image.size)))


OCCLUSIONS: dict[str, Occlusion] = {
    "a quarter of squares kept": _squares(0.25),
    "three quarters of squares kept": _squares(0.75),
    "left half": _left_half,
    "middle quarter": _middle,
    "blurred": _blurred,
}


def occlude(image: Image.Image, kind: str, name: str) -> Image.Image:
    """One of `OCCLUSIONS` of an RGB image; the same for the same `name`."""
    seed = hashlib.sha256(f"{kind}/{name}".encode("utf-8", "surrogatepass")).digest()
    return OCCLUSIONS[kind](image, np.random.default_rng(list(seed[:8])))


def patch_masked(encoder: Encoder, share: float, *, seed: int = 7) -> TowerEncoder | None:
    """The encoder looking at a share of the patches of each image, or None where it cannot.

    Which ones is drawn for each batch, as in ProLIP's training. It runs in torch, encodes images
    alone, and has a fingerprint of its own.
    """
    if not isinstance(encoder, TowerEncoder):
        return None
    towers = TorchTowers(encoder.parts.build_module)
    encode = _keeping(towers.module)
    if encode is None:
        return None
    identity = f"{encoder.fingerprint}/patches {share} {seed}"
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    parts = replace(encoder.parts, fingerprint=fingerprint)
    return TowerEncoder(parts, _MaskedTowers(encode, share, seed, towers.device))


Keeping = Callable[[Tensor, Callable[[int], Tensor]], tuple[Tensor, Tensor]]


def _keeping(module: Any) -> Keeping | None:
    """(pixels, which of n patches) -> raw mean, log-variance; None for other towers."""
    if isinstance(module, ProLIP):
        n_patches = module.config.vision.n_patches
        return lambda pixels, chosen: module.encode_image(pixels, chosen(n_patches))
    if isinstance(module, MiniTowers):

        def of_tokens(pixels: Tensor, chosen: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
            tokens = image_tokens(module.image_trunk, pixels)
            mean, log_variance = module.heads.image(tokens[:, chosen(tokens.shape[1])])
            return mean, log_variance

        return of_tokens
    return None


class _MaskedTowers:
    """An image tower that leaves patches out."""

    def __init__(self, encode: Keeping, share: float, seed: int, device: str) -> None:
        self._encode = encode
        self._share = share
        self._rng = np.random.default_rng(seed)
        self._device = device

    def image(self, pixels: Pixels) -> TowerOutput:
        """Normalised pixels [B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        with torch.inference_mode():
            mean, log_variance = self._encode(
                torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device), self._chosen
            )
        return mean.float().cpu().numpy(), log_variance.float().cpu().numpy()

    def text(self, ids: npt.NDArray[np.int64]) -> TowerOutput:
        """Raises ConfigError: patches are of images."""
        raise ConfigError("Patches are left out of images; encode texts with the encoder itself.")

    def _chosen(self, n_patches: int) -> Tensor:
        kept = self._rng.permutation(n_patches)[: max(1, round(self._share * n_patches))]
        return torch.from_numpy(np.sort(kept)).to(self._device)
