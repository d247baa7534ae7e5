"""The fake encoder is deterministic, cheap, and finds colours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from prolip_search.distances import csd
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import ConfigError
from prolip_search.testing import COLOURS, FakeEncoder


def picture(colour: str, size: tuple[int, int] = (20, 13)) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", size, COLOURS[colour])


def test_it_is_an_encoder() -> None:
    assert isinstance(FakeEncoder(), Encoder)


@pytest.mark.parametrize("dim", [8, 16, 64])
def test_a_colour_word_lands_nearest_the_image_of_that_colour(dim: int) -> None:
    names = ["red", "green", "blue", "yellow", "black", "white"]
    encoder = FakeEncoder(dim)
    images = encoder.encode_images([picture(name) for name in names])
    texts = encoder.encode_texts([f"a {name} thing" for name in names])
    assert csd(texts, images).argmin(axis=1).tolist() == list(range(len(names)))


def test_the_same_input_gives_the_same_bits() -> None:
    image = Image.effect_noise((40, 30), 60)
    first, second = FakeEncoder(), FakeEncoder()
    np.testing.assert_array_equal(
        first.encode_images([image]).mean, second.encode_images([image]).mean
    )
    np.testing.assert_array_equal(
        first.encode_texts(["a dog"]).log_variance, second.encode_texts(["a dog"]).log_variance
    )
    assert first.fingerprint == second.fingerprint


def test_images_that_differ_in_detail_have_different_gaussians() -> None:
    left = picture("red", (16, 16))
    left.paste((0, 0, 255), (0, 0, 8, 16))
    right = left.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    means = FakeEncoder().encode_images([left, right]).mean
    assert np.abs(means[0] - means[1]).max() > 1e-4


def test_fewer_words_are_more_uncertain() -> None:
    texts = ["a dog in the deep snow", "a dog in snow", "dog", ""]
    u = FakeEncoder().encode_texts(texts).uncertainty
    assert (np.diff(u) > 0).all()


def test_preparing_first_changes_nothing() -> None:
    encoder = FakeEncoder()
    images = [picture("red"), picture("cyan", (7, 31))]
    batch = np.stack([encoder.prepare_image(image) for image in images])
    np.testing.assert_array_equal(
        encoder.encode_prepared(batch).mean, encoder.encode_images(images).mean
    )


def test_nothing_in_nothing_out_and_everything_is_counted() -> None:
    encoder = FakeEncoder()
    assert len(encoder.encode_images([])) == len(encoder.encode_texts([])) == 0
    encoder.encode_images([picture("red")] * 3)
    encoder.encode_texts(["a", "b"])
    assert (encoder.n_images_encoded, encoder.n_texts_encoded) == (3, 2)


def test_long_texts_are_truncated_and_it_says_so() -> None:
    encoder = FakeEncoder()
    long = "word " * 40
    assert encoder.is_truncated(long)
    assert not encoder.is_truncated("word " * 32)
    np.testing.assert_array_equal(
        encoder.encode_texts([long]).mean, encoder.encode_texts(["word " * 32]).mean
    )


def test_salt_and_dimension_change_the_fingerprint() -> None:
    encoders = [FakeEncoder(), FakeEncoder(salt="other"), FakeEncoder(16)]
    assert len({encoder.fingerprint for encoder in encoders}) == 3
    assert all(len(encoder.fingerprint) == 64 for encoder in encoders)


def test_one_dimension_is_refused() -> None:
    with pytest.raises(ConfigError):
        FakeEncoder(1)


def test_it_imports_no_framework() -> None:
    code = (
        "import sys, prolip_search.testing as t; t.FakeEncoder().encode_texts(['red']);"
        "print(sorted({'torch', 'faiss', 'lance', 'onnxruntime', 'tokenizers'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "[]"
