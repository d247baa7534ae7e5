"""A model of open_clip by name: whose pixels, whose activation, which weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolip_search.encoders import open_clip_trunk
from prolip_search.encoders.open_clip_trunk import find_open_clip
from prolip_search.encoders.preprocessing import CLIP_MEAN
from prolip_search.errors import ConfigError, EncoderNotFound


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file that nobody reads: finding a model builds nothing."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    return path


def test_a_file_of_a_siglip_is_given_siglips_pixels(weights: Path) -> None:
    siglip = find_open_clip("ViT-B-16-SigLIP", weights)
    assert siglip.preprocessing.mean == (0.5, 0.5, 0.5)
    assert siglip.preprocessing.resize == "squash"
    assert (siglip.context_length, siglip.vocab_size, siglip.dim) == (64, 32_000, 768)
    clip = find_open_clip("ViT-B-16", weights)
    assert clip.preprocessing.mean == CLIP_MEAN
    assert clip.preprocessing.resize == "shortest_side"
    assert (clip.context_length, clip.vocab_size, clip.dim) == (77, 49_408, 512)


def test_a_tag_brings_its_own_pixels_and_activation(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip_trunk, "download_pretrained", lambda published: str(weights))
    assert find_open_clip("ViT-L-14", "laion2b_s32b_b82k").preprocessing.mean == (0.5, 0.5, 0.5)
    assert not find_open_clip("ViT-B-16", "laion2b_s34b_b88k").quick_gelu
    dfn = find_open_clip("ViT-B-16", "dfn2b")
    assert dfn.quick_gelu
    assert dfn.config["quick_gelu"] is True
    # A file says nothing of its activation: the name does.
    assert not find_open_clip("ViT-B-16", weights).quick_gelu
    assert find_open_clip("ViT-B-16-quickgelu", weights).quick_gelu


def test_a_tag_that_cannot_be_fetched_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(published: object) -> str:
        raise OSError("network is unreachable")

    monkeypatch.setattr(open_clip_trunk, "download_pretrained", offline)
    with pytest.raises(EncoderNotFound, match=r"unreachable.*name a safetensors file"):
        find_open_clip("ViT-B-16", "laion2b_s34b_b88k")


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "roberta-ViT-B-32"])
def test_towers_that_are_not_open_clips_own_are_refused_with_another_way(
    name: str, weights: Path
) -> None:
    with pytest.raises(ConfigError, match="encode_images and encode_texts"):
        find_open_clip(name, weights)


def test_a_folder_without_its_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderNotFound, match=r"open_clip_config\.json"):
        find_open_clip(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="lacks embed_dim"):
        find_open_clip(str(tmp_path))
