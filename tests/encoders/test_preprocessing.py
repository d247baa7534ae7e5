"""Preprocessing is the official transform, to the bit, on every odd size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from prolip_search.encoders.preprocessing import CLIP_MEAN, CLIP_STD, ImagePreprocessing
from prolip_search.errors import ConfigError

FLOAT32 = 1e-6  # a few roundings of numbers around 2
ODD_SIZES = [
    (37, 53),
    (53, 37),
    (32, 32),
    (33, 32),
    (32, 35),
    (31, 97),
    (97, 31),
    (5, 9),
    (640, 427),
]


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Seeded noise of the given size, smooth enough that bicubic has something to keep."""
    rng = np.random.default_rng(size[0] * 1000 + size[1])
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def official(size: int) -> transforms.Compose:
    """The transform of the official evaluation."""
    return transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC, antialias=True),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )


@pytest.mark.parametrize("size", ODD_SIZES)
def test_shortest_side_equals_torchvision_on_rgb_images(size: tuple[int, int]) -> None:
    image = noise(size)
    preprocessing = ImagePreprocessing(size=32)
    ours = preprocessing.normalise(preprocessing.prepare(image)[None])[0]
    np.testing.assert_allclose(ours, official(32)(image).numpy(), atol=FLOAT32)


@pytest.mark.parametrize("long", [227, 229, 231, 225])
def test_the_crop_begins_where_torchvision_begins_it(long: int) -> None:
    image = noise((long, 224))
    expected = np.asarray(transforms.CenterCrop(224)(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(ImagePreprocessing(size=224).prepare(image), expected)


def test_one_pixel_apart_from_the_transformers_path_when_the_excess_is_3_mod_4() -> None:
    image = noise((227, 224))
    other = np.asarray(image.crop((1, 0, 225, 224))).transpose(2, 0, 1)  # (227 − 224) // 2
    ours = ImagePreprocessing(size=224).prepare(image)
    np.testing.assert_array_equal(ours[:, :, :-1], other[:, :, 1:])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_every_mode_is_converted_first(mode: str) -> None:
    image = Image.new("I;16", (41, 29), 9) if mode == "I;16" else noise((41, 29)).convert(mode)
    preprocessing = ImagePreprocessing(size=16)
    np.testing.assert_array_equal(
        preprocessing.prepare(image), preprocessing.prepare(image.convert("RGB"))
    )


def test_squash_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (100, 20), (10, 20, 30))
    image.paste((250, 0, 0), (0, 0, 10, 20))  # a mark at the far left, outside a centre crop
    squashed = ImagePreprocessing(size=20, resize="squash").prepare(image)
    cropped = ImagePreprocessing(size=20).prepare(image)
    assert squashed[0, :, 0].min() > 200
    assert cropped[0].max() < 40


def test_squash_equals_torchvision_resize() -> None:
    image = noise((53, 37))
    resize = transforms.Resize((20, 20), transforms.InterpolationMode.BICUBIC, antialias=True)
    np.testing.assert_array_equal(
        ImagePreprocessing(size=20, resize="squash").prepare(image),
        np.asarray(resize(image)).transpose(2, 0, 1),
    )


@pytest.mark.parametrize("size", [(301, 31), (31, 301), (2000, 3)])
def test_a_long_strip_gives_the_same_pixels_without_the_whole_resized_image(
    size: tuple[int, int],
) -> None:
    image = noise(size)
    expected = np.asarray(official(16).transforms[1](official(16).transforms[0](image)))
    ours = ImagePreprocessing(size=16).prepare(image).transpose(1, 2, 0)
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_an_extreme_strip_costs_no_more_than_its_middle() -> None:
    pixels = ImagePreprocessing(size=224).prepare(Image.new("RGB", (60_000, 1), (9, 8, 7)))
    assert pixels.shape == (3, 224, 224)
    assert pixels[:, 0, 0].tolist() == [9, 8, 7]


def test_mean_and_std_of_mini_are_x_minus_127_over_128() -> None:
    third = (127 / 255,) * 3
    preprocessing = ImagePreprocessing(size=4, resize="squash", mean=third, std=(128 / 255,) * 3)
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4) * 5
    expected = (pixels.astype(np.float32) - 127) / 128
    np.testing.assert_allclose(preprocessing.normalise(pixels), expected, atol=FLOAT32)


def test_float_pixels_are_taken_as_normalised() -> None:
    pixels = np.full((1, 3, 2, 2), 0.25, np.float32)
    np.testing.assert_array_equal(ImagePreprocessing(size=2).normalise(pixels), pixels)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"size": 0}, "size"),
        ({"resize": "fit"}, "resize"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(wrong: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ImagePreprocessing(**{"size": 8, **wrong})  # type: ignore[arg-type]  # wrong on purpose
