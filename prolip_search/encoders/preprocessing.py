"""Pixels as the image towers expect them: PIL and NumPy only, one path for every runtime.

The image becomes RGB first, then is resized in bytes (with antialias), cropped and normalised.
For an RGB image "shortest_side" equals, to the bit, the torchvision transform that the official
training and evaluation use: the long side is int(size · long / short) and the crop begins at
round((long − size) / 2), half to even. It is not the transformers processor of the model cards,
which crops at (long − size) // 2: one pixel apart when long − size ≡ 3 (mod 4). For other modes
torchvision resizes before it converts; here the conversion comes first, so that a palette or an
alpha channel is never interpolated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from prolip_search.errors import ConfigError

__all__ = ["CLIP_MEAN", "CLIP_STD", "ImagePreprocessing"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
# Beyond this ratio of sides the whole resized image is not built for a crop from its middle: a
# strip of 1 × 100,000 pixels would ask for gigabytes.
LARGEST_WHOLE_RATIO = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePreprocessing:
    """From an image to a square of normalised pixels.

    resize: "shortest_side" keeps proportions and crops the centre, "squash" stretches the image to
    the square. mean, std: per channel, of pixels in [0, 1].
    """

    size: int
    resize: Literal["shortest_side", "squash"] = "shortest_side"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size = {self.size} must be at least 1 pixel.")
        if self.resize not in ("shortest_side", "squash"):
            raise ConfigError(f"resize = {self.resize!r} must be shortest_side or squash.")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"interpolation = {self.interpolation!r} must be bicubic or bilinear."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise ConfigError("mean and std must be three numbers each, every std above 0.")

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """One image of any mode -> uint8 [3, size, size]; safe to call from many threads."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        resized = self._squash(rgb) if self.resize == "squash" else self._resize_and_crop(rgb)
        return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))

    def normalise(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """uint8 [B, 3, H, W] -> float32 (x / 255 − mean) / std; float32 is taken as done."""
        if batch.dtype != np.uint8:
            return np.asarray(batch, dtype=np.float32)
        shape = (1, 3, 1, 1)
        scale = (1 / (255 * np.asarray(self.std, np.float64))).astype(np.float32).reshape(shape)
        shift = np.asarray(self.mean, np.float64) / np.asarray(self.std, np.float64)
        pixels = batch.astype(np.float32)
        pixels *= scale
        pixels -= shift.astype(np.float32).reshape(shape)
        return pixels

    def to_json(self) -> dict[str, Any]:
        """Everything that decides the pixels, for a fingerprint."""
        return asdict(self)

    @property
    def _filter(self) -> Image.Resampling:
        return INTERPOLATIONS[self.interpolation]

    def _squash(self, image: Image.Image) -> Image.Image:
        size = (self.size, self.size)
        return image if image.size == size else image.resize(size, self._filter)

    def _resize_and_crop(self, image: Image.Image) -> Image.Image:
        size, (width, height) = self.size, image.size
        short, long = min(width, height), max(width, height)
        new_long = int(size * long / short)
        new_size = (size, new_long) if width <= height else (new_long, size)
        start = round((new_long - size) / 2)  # half to even, as the official crop
        left, top = (0, start) if width <= height else (start, 0)
        if long > LARGEST_WHOLE_RATIO * short:
            return self._resize_middle(image, start, new_long)
        resized = image if image.size == new_size else image.resize(new_size, self._filter)
        if resized.size == (size, size):
            return resized
        return resized.crop((left, top, left + size, top + size))

    def _resize_middle(self, image: Image.Image, start: int, new_long: int) -> Image.Image:
        """The same pixels, but for rounding of positions, without those that the crop discards."""
        width, height = image.size
        per_pixel = max(width, height) / new_long
        begin, end = start * per_pixel, (start + self.size) * per_pixel
        box = (0, begin, width, end) if width <= height else (begin, 0, end, height)
        return image.resize((self.size, self.size), self._filter, box=box)
