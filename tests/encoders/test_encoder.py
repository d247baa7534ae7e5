"""The concrete encoder: what it promises whatever runs its towers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prolip_search.encoders.encoder import TowerEncoder
from prolip_search.encoders.loading import encoder_parts, load_encoder
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import CheckpointError, ConfigError

FLOAT32 = 1e-5  # the same rows in another batch


@pytest.fixture(scope="module")
def encoder(released_folder: Path) -> TowerEncoder:
    """The tiny encoder, run by torch: no export needed here."""
    return load_encoder(released_folder, runtime="torch")


def photos(n: int) -> list[Image.Image]:
    """n different noisy pictures of different sizes."""
    random = np.random.default_rng(3)
    return [
        Image.fromarray(random.integers(0, 256, (20 + 3 * k, 50 - k, 3), dtype=np.uint8))
        for k in range(n)
    ]


def test_it_is_an_encoder(encoder: TowerEncoder) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.dim == 16
    assert encoder.image_size == 24
    assert encoder.revision is None
    assert "D=16" in repr(encoder)


def test_images_become_gaussians_in_order_in_any_batch_size(encoder: TowerEncoder) -> None:
    images = photos(35)  # more than one batch
    together = encoder.encode_images(images)
    alone = encoder.encode_images(images[33:34])
    np.testing.assert_allclose(together.mean[33], alone.mean[0], atol=FLOAT32)
    np.testing.assert_allclose(together.log_variance[33], alone.log_variance[0], atol=FLOAT32)
    assert len(together) == 35


def test_texts_become_gaussians_in_order_whatever_their_lengths(encoder: TowerEncoder) -> None:
    texts = [f"dog {'in the snow ' * (k % 3)}{k}" for k in range(70)]
    together = encoder.encode_texts(texts)
    for row in (0, 1, 2, 68, 69):
        alone = encoder.encode_texts([texts[row]])
        np.testing.assert_allclose(together.mean[row], alone.mean[0], atol=FLOAT32)


def test_preparing_and_encoding_apart_is_the_same(encoder: TowerEncoder) -> None:
    images = photos(3)
    batch = np.stack([encoder.prepare_image(image) for image in images])
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(
        encoder.encode_prepared(batch).mean, encoder.encode_images(images).mean
    )


def test_images_may_be_prepared_in_threads(encoder: TowerEncoder) -> None:
    images = photos(12)
    with ThreadPoolExecutor(4) as pool:
        for ours, expected in zip(
            pool.map(encoder.prepare_image, images), map(encoder.prepare_image, images), strict=True
        ):
            np.testing.assert_array_equal(ours, expected)


def test_threads_that_ask_at_once_load_the_towers_once(released_folder: Path) -> None:
    parts = encoder_parts(released_folder)
    loads: list[str] = []
    start = threading.Barrier(4)

    def build() -> object:
        loads.append("loaded")
        return parts.build_module()

    from prolip_search.encoders.torch_runtime import TorchTowers

    encoder = TowerEncoder(parts, TorchTowers(build, device="cpu"))

    def ask(text: str) -> int:
        start.wait()
        return len(encoder.encode_texts([text]))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, "abcd")) == [1, 1, 1, 1]
    assert loads == ["loaded"]


def test_nothing_in_nothing_out_without_loading(released_folder: Path) -> None:
    encoder = load_encoder(released_folder)
    assert encoder.encode_images([]).mean.shape == (0, 16)
    assert encoder.encode_texts([]).mean.shape == (0, 16)
    assert encoder.encode_prepared(np.zeros((0, 3, 24, 24), np.uint8)).mean.shape == (0, 16)


def test_a_long_text_is_cut_and_it_says_so(encoder: TowerEncoder) -> None:
    assert encoder.is_truncated("dog " * 12)
    assert not encoder.is_truncated("dog " * 11)
    np.testing.assert_array_equal(
        encoder.encode_texts(["dog " * 11]).mean, encoder.encode_texts(["dog " * 99]).mean
    )


def test_one_text_instead_of_a_list_is_refused(encoder: TowerEncoder) -> None:
    with pytest.raises(ConfigError, match="list"):
        encoder.encode_texts("a dog")


def test_pixels_of_another_size_are_refused(encoder: TowerEncoder) -> None:
    with pytest.raises(ConfigError, match="prepare_image"):
        encoder.encode_prepared(np.zeros((1, 3, 32, 32), np.uint8))


def test_a_tokenizer_with_more_ids_than_the_tower_knows_is_refused(released_folder: Path) -> None:
    parts = replace(encoder_parts(released_folder), vocab_size=40)
    encoder = TowerEncoder(parts, load_encoder(released_folder, runtime="torch").towers)
    with pytest.raises(CheckpointError, match="do not belong together"):
        encoder.encode_texts(["a dog"])
