"""Photos that show less: how much is left, the same every time; patches left out in the tower."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from prolip_search.distances import MatchLogit
from prolip_search.encoders.config import parse_config
from prolip_search.encoders.encoder import EncoderParts, TowerEncoder
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.prolip import ProLIP
from prolip_search.encoders.torch_runtime import TorchTowers
from prolip_search.errors import ConfigError
from prolip_search.testing import FakeEncoder
from prolip_search.train.evaluation.occlusion import OCCLUSIONS, occlude, patch_masked


@pytest.fixture
def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (84, 112, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def share_kept(whole: Image.Image, part: Image.Image) -> float:
    return float((np.asarray(whole) == np.asarray(part)).all(axis=2).mean())


def test_squares_keep_their_share_and_the_mean_colour(noise: Image.Image) -> None:
    for kind, share in (
        ("a quarter of squares kept", 0.25),
        ("three quarters of squares kept", 0.75),
    ):
        part = occlude(noise, kind, "a")
        assert share_kept(noise, part) == pytest.approx(share, abs=0.01)
        np.testing.assert_allclose(
            np.asarray(part).mean(axis=(0, 1)), np.asarray(noise).mean(axis=(0, 1)), atol=3
        )


def test_the_same_photo_is_occluded_the_same_way_and_another_differently(
    noise: Image.Image,
) -> None:
    kind = "a quarter of squares kept"
    assert occlude(noise, kind, "a").tobytes() == occlude(noise, kind, "a").tobytes()
    assert occlude(noise, kind, "a").tobytes() != occlude(noise, kind, "b").tobytes()


def test_cuts_are_parts_of_the_photo(noise: Image.Image) -> None:
    pixels = np.asarray(noise)
    np.testing.assert_array_equal(np.asarray(occlude(noise, "left half", "a")), pixels[:, :56])
    np.testing.assert_array_equal(
        np.asarray(occlude(noise, "middle quarter", "a")), pixels[21:63, 28:84]
    )
    blurred = np.asarray(occlude(noise, "blurred", "a"))
    assert blurred.std() < 0.3 * pixels.std()


@pytest.mark.parametrize("kind", OCCLUSIONS)
def test_the_smallest_photo_survives(kind: str) -> None:
    part = occlude(Image.new("RGB", (1, 1), "red"), kind, "a")
    assert part.mode == "RGB"
    assert min(part.size) >= 1


def tiny_encoder() -> TowerEncoder:
    vision = {
        "layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32,
        "embed_unc": True,
    }  # fmt: skip
    text = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    module = ProLIP.from_config(
        parse_config({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})
    ).eval()

    def no_tokenizer() -> None:
        raise AssertionError("images need no tokenizer")

    parts = EncoderParts(
        name="tiny",
        revision=None,
        dim=8,
        match_logit=MatchLogit(10.0, -5.0),
        fingerprint="0" * 64,
        preprocessing=ImagePreprocessing(
            size=32, resize="squash", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
        ),
        vocab_size=16,
        dynamic_text=False,
        load_tokenizer=no_tokenizer,  # type: ignore[arg-type]
        build_module=lambda: module,
    )
    return TowerEncoder(parts, TorchTowers(lambda: module, device="cpu"))


def test_patches_are_left_out_inside_the_tower(noise: Image.Image) -> None:
    encoder = tiny_encoder()
    everything = patch_masked(encoder, 1.0)
    some = patch_masked(encoder, 0.25)
    assert everything is not None
    assert some is not None
    whole = encoder.encode_images([noise])
    np.testing.assert_allclose(everything.encode_images([noise]).mean, whole.mean, atol=1e-5)
    assert np.abs(some.encode_images([noise]).mean - whole.mean).max() > 1e-3
    assert len({encoder.fingerprint, everything.fingerprint, some.fingerprint}) == 3
    with pytest.raises(ConfigError, match="encode texts with the encoder itself"):
        some.towers.text(np.zeros((1, 4), dtype=np.int64))


def test_an_encoder_without_patches_is_left_alone() -> None:
    assert patch_masked(FakeEncoder(), 0.5) is None
