"""The augmentation that ProLIP was trained with: a random crop, colour jitter, sometimes grey.

Written on Pillow with the generator as an argument: the transforms of torchvision draw from one
global generator, so what they do to an image depends on which thread came first. The ranges and the
order of steps are torchvision's (`RandomResizedCrop`, `ColorJitter`, `RandomGrayscale`), without a
flip: left and right have names in captions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from prolip_search.errors import ConfigError
from prolip_search.train.tables import check_between

__all__ = ["Augmentation"]

N_TRIES = 10  # for a crop that fits, then the largest centred one
LARGEST_RATIO = 8.0
LARGEST_JITTER = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What happens to an image before the image tower sees it (PROLIP.md §9).

    crop_area: least and most of the image's area, crop_ratio: of width to height. brightness,
    contrast, saturation: a factor from 1 ± the value; hue: a turn of ± that share of the circle;
    all four with probability jitter_probability. grey_probability: of losing all colour.
    """

    crop_area: tuple[float, ...] = (0.8, 1.0)
    crop_ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    brightness: float = 0.32
    contrast: float = 0.32
    saturation: float = 0.32
    hue: float = 0.08
    jitter_probability: float = 0.8
    grey_probability: float = 0.2

    def __post_init__(self) -> None:
        _check_range("crop_area", self.crop_area, 0.01, 1)
        _check_range("crop_ratio", self.crop_ratio, 1 / LARGEST_RATIO, LARGEST_RATIO)
        for name, most in (
            ("brightness", LARGEST_JITTER),
            ("contrast", LARGEST_JITTER),
            ("saturation", LARGEST_JITTER),
            ("hue", 0.5),
            ("jitter_probability", 1),
            ("grey_probability", 1),
        ):
            check_between(f"augmentation.{name}", getattr(self, name), 0, most)

    def __call__(
        self, image: Image.Image, size: int, generator: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        """RGB image -> uint8 [3, size, size]; the generator alone decides."""
        box = self.crop_box(image.width, image.height, generator)
        square = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        if generator.random() < self.jitter_probability:
            square = self._jitter(square, generator)
        if generator.random() < self.grey_probability:
            square = square.convert("L").convert("RGB")
        return np.ascontiguousarray(np.asarray(square, np.uint8).transpose(2, 0, 1))

    def crop_box(
        self, width: int, height: int, generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a random part of the image, in whole pixels."""
        low, high = (math.log(ratio) for ratio in self.crop_ratio)
        for _ in range(N_TRIES):
            area = width * height * generator.uniform(self.crop_area[0], self.crop_area[1])
            ratio = math.exp(generator.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left = int(generator.integers(width - w + 1))
                top = int(generator.integers(height - h + 1))
                return left, top, left + w, top + h
        w = max(1, min(width, round(height * self.crop_ratio[1])))
        h = max(1, min(height, round(width / self.crop_ratio[0])))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def _jitter(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """The four changes in a random order."""
        spreads = (self.brightness, self.contrast, self.saturation)
        factors = [generator.uniform(max(0.0, 1 - spread), 1 + spread) for spread in spreads]
        turn = generator.uniform(-self.hue, self.hue)
        for step in generator.permutation(4):
            if step == 0:
                image = ImageEnhance.Brightness(image).enhance(factors[0])
            elif step == 1:
                image = ImageEnhance.Contrast(image).enhance(factors[1])
            elif step == 2:
                image = ImageEnhance.Color(image).enhance(factors[2])
            else:
                image = turn_hue(image, turn)
        return image


def turn_hue(image: Image.Image, turn: float) -> Image.Image:
    """RGB image with every hue turned by a share of the circle, in −0.5 to 0.5."""
    hue, saturation, value = image.convert("HSV").split()
    steps = int(turn * 255)  # towards 0, and 255 of 256 levels a turn, as torchvision does it
    turned = hue.point([(level + steps) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _check_range(name: str, value: object, least: float, most: float) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ConfigError(f"augmentation.{name} = {value!r} must be two numbers.")
    for end in value:
        check_between(f"augmentation.{name}", end, least, most)
    if value[0] > value[1]:
        raise ConfigError(f"augmentation.{name} = {list(value)} must begin with the smaller one.")
