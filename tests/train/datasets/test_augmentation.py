"""The augmentation against torchvision's functions, and what it leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from prolip_search.errors import ConfigError
from prolip_search.train.datasets.augmentation import Augmentation, turn_hue
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.tables import from_table

PLAIN = Augmentation(jitter_probability=0, grey_probability=0)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def test_the_crop_is_resized_as_torchvision_does() -> None:
    image = noise(60, 40)
    left, top, right, bottom = PLAIN.crop_box(60, 40, np.random.default_rng(4))
    expected = functional.resized_crop(
        image,
        top,
        left,
        bottom - top,
        right - left,
        [16, 16],
        interpolation=functional.InterpolationMode.BICUBIC,
    )
    pixels = PLAIN(image, 16, np.random.default_rng(4))
    np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(60, 40), (400, 20), (3, 500), (1, 1)])
def test_crops_lie_inside_and_are_as_large_as_asked_where_that_fits(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = PLAIN.crop_box(*size, generator)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if size == (60, 40):
            assert 0.77 <= (right - left) * (bottom - top) / 2400 <= 1


def test_the_hue_turns_as_torchvision_turns_it() -> None:
    image = noise(20, 20)
    for turn in (-0.08, -0.001, 0.0, 0.03, 0.08):
        np.testing.assert_array_equal(
            np.asarray(turn_hue(image, turn)), np.asarray(functional.adjust_hue(image, turn))
        )


def test_colours_change_with_the_stated_probabilities() -> None:
    image, generator = noise(16, 16), np.random.default_rng(1)
    whole = Augmentation(crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    plain = np.asarray(image).transpose(2, 0, 1)
    outputs = [whole(image, 16, generator) for _ in range(500)]
    grey = [bool((o[0] == o[1]).all() and (o[1] == o[2]).all()) for o in outputs]
    untouched = [bool((o == plain).all()) for o in outputs]
    assert abs(np.mean(grey) - 0.2) < 0.06
    assert abs(np.mean(untouched) - 0.2 * 0.8) < 0.06
    assert len({o.tobytes() for o in outputs}) > 300


def test_the_generator_alone_decides() -> None:
    image, augmentation = noise(30, 50), Augmentation()
    one = augmentation(image, 8, np.random.default_rng(9))
    np.testing.assert_array_equal(one, augmentation(image, 8, np.random.default_rng(9)))
    assert (one.dtype, one.shape) == (np.dtype(np.uint8), (3, 8, 8))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"crop_area": [0.9, 0.5]}, "must begin with the smaller"),
        ({"crop_area": [0.9]}, "must be two numbers"),
        ({"crop_area": [0.0, 1.0]}, "must be from 0.01 to 1"),
        ({"hue": 0.7}, "augmentation.hue = 0.7 must be from 0 to 0.5"),
        ({"hues": 0.1}, "did you mean data.augmentation.hue"),
    ],
)
def test_impossible_values_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_table(DataConfig, {"augmentation": table}, source="a test", prefix="data.")


def test_a_table_of_a_recipe_is_read() -> None:
    table = {"paths": ["a", "b"], "weights": [1, 2], "augmentation": {"crop_area": [0.5, 1]}}
    config = from_table(DataConfig, table, source="a test", prefix="data.")
    assert config.augmentation.crop_area == (0.5, 1.0)
    assert config.path_weights == (1.0, 2.0)
    for wrong in ({"weights": [1]}, {"kind": "tars"}, {"threads": 0}, {"shuffle_buffer": 0}):
        with pytest.raises(ConfigError):
            from_table(DataConfig, wrong, source="a test", prefix="data.")
