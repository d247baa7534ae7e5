"""Adapters: heads over a frozen encoder are an encoder, and never over another trunk's weights."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from prolip_search.distances import MatchLogit
from prolip_search.encoders.adapter import (
    AdapterConfig,
    AdapterHeadsConfig,
    ObjectTrunk,
    OpenClipTrunk,
    adapter_parts,
    read_adapter_config,
)
from prolip_search.encoders.adapter_towers import AdapterHeads, with_trunk
from prolip_search.encoders.loading import load_encoder
from prolip_search.encoders.open_clip_trunk import find_open_clip
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound
from tests.train.towers.clips import CLIP, make_clip, save_clip

HEADS = AdapterHeadsConfig(variance_hidden=8, mean_hidden=8)
WORDS = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "vocab_size": 49_408}}
TEXTS = ["a dog in the snow", "two cats"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with CLIP's vocabulary."""
    folder = tmp_path_factory.mktemp("clips") / "clip"
    return save_clip(folder, make_clip(WORDS), WORDS)


def heads_of(config: AdapterHeadsConfig = HEADS, dim: int = 32) -> AdapterHeads:
    """Heads that have learned something, as it were."""
    torch.manual_seed(3)
    heads = AdapterHeads(dim, config)
    with torch.no_grad():
        for head in (heads.image, heads.text):
            head.variance_out.weight.normal_(std=0.1)
            head.length.fill_(1.7)
    return heads.eval()


def write_adapter(folder: Path, trunk: OpenClipTrunk | ObjectTrunk, heads: AdapterHeads) -> Path:
    """The folder of an adapter."""
    folder.mkdir(parents=True)
    save_file(heads.state_dict(), folder / "heads.safetensors")
    config = AdapterConfig(
        dim=heads.dim,
        heads=heads.config,
        match_logit=MatchLogit(20.0, -5.0),
        trunk=trunk,
        training={"seed": 0},
    )
    values = config.to_json(folder / "heads.safetensors")
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def open_clip_trunk(folder: Path) -> OpenClipTrunk:
    """The description of the tiny CLIP."""
    found = find_open_clip(str(folder))
    return OpenClipTrunk(
        architecture="tiny",
        model_config=found.config,
        weights=str(found.weights),
        sha256=found.sha256,
        preprocessing=found.preprocessing,
        tokenizer_sha256=None,
    )


@pytest.fixture
def adapter(tmp_path: Path, clip_folder: Path) -> Path:
    """An adapter over a copy of the tiny CLIP."""
    copy_of = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    return write_adapter(tmp_path / "adapter", open_clip_trunk(copy_of), heads_of())


def photos() -> list[Image.Image]:
    """Three photos of noise."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_frozen_means_are_the_trunks_own_embeddings(
    adapter: Path, clip_folder: Path, runtime: Any
) -> None:
    encoder = load_encoder(adapter, runtime=runtime)
    assert isinstance(encoder, Encoder)
    assert encoder.dim == 32
    assert encoder.match_logit == MatchLogit(20.0, -5.0)
    clip = find_open_clip(str(clip_folder)).build()
    pixels = np.stack([encoder.prepare_image(photo) for photo in photos()])
    normalised = encoder.parts.preprocessing.normalise(pixels)
    with torch.inference_mode():
        images = clip.encode_image(torch.from_numpy(normalised), normalize=True)
        texts = clip.encode_text(torch.from_numpy(encoder.tokenizer(TEXTS)), normalize=True)
    np.testing.assert_allclose(encoder.encode_images(photos()).mean, images.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS).mean, texts.numpy(), atol=1e-5)
    assert encoder.encode_texts(TEXTS).log_variance.std() > 0.01


def test_the_fingerprint_covers_heads_trunk_and_pixels_but_not_the_place(
    adapter: Path, tmp_path: Path
) -> None:
    first = adapter_parts(adapter, "a").fingerprint
    moved = Path(shutil.copytree(adapter, tmp_path / "moved"))
    edit(moved, lambda values: values["trunk"].update(weights="/elsewhere/weights"))
    assert adapter_parts(moved, "a").fingerprint == first
    for change in (
        lambda values: values["trunk"].update(sha256="0" * 64),
        lambda values: values["trunk"]["preprocessing"].update(size=48),
        lambda values: values["match_logit"].update(bias=-4.0),
        lambda values: values["trunk"].update(tokenizer_sha256="1" * 64),
    ):
        other = Path(shutil.copytree(adapter, tmp_path / "other"))
        edit(other, change)
        assert adapter_parts(other, "a").fingerprint != first
        shutil.rmtree(other)
    weights = load_file(adapter / "heads.safetensors")
    weights["image.variance_out.bias"] += 1
    save_file(weights, adapter / "heads.safetensors")
    assert adapter_parts(adapter, "a").fingerprint != first


def edit(folder: Path, change: Any) -> None:
    """Write the configuration again after a change."""
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def test_trunk_weights_that_are_missing_or_others_are_one_error_that_names_the_fix(
    adapter: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    encoder = load_encoder(adapter, runtime="torch")  # costs no look at the trunk
    with pytest.raises(EncoderNotFound, match=r"copy open_clip_model\.safetensors .*into"):
        encoder.encode_texts(TEXTS)
    (adapter / weights.name).write_bytes(kept)  # beside the heads it is found
    assert len(load_encoder(adapter, runtime="torch").encode_texts(TEXTS)) == 2
    state = load_file(adapter / weights.name)
    save_file({name: value + 1 for name, value in state.items()}, adapter / weights.name)
    with pytest.raises(CheckpointError, match=r"was trained on .*; copy that file into"):
        load_encoder(adapter, runtime="torch").encode_texts(TEXTS)


def test_damaged_folders_say_what_is_wrong(adapter: Path) -> None:
    (adapter / "heads.safetensors").rename(adapter / "hidden")
    with pytest.raises(EncoderNotFound, match=r"no .*heads\.safetensors"):
        load_encoder(adapter)
    save_file({"x": torch.zeros(1)}, adapter / "heads.safetensors")
    with pytest.raises(CheckpointError, match="does not hold the heads"):
        load_encoder(adapter, runtime="torch").encode_texts(TEXTS)
    edit(adapter, lambda values: values.update(format=9))
    with pytest.raises(CheckpointError, match="has format 9"):
        load_encoder(adapter)
    edit(adapter, lambda values: values.update(format=1, dim=None))
    with pytest.raises(CheckpointError, match="does not describe an adapter"):
        load_encoder(adapter)


def test_the_configuration_survives_the_file(adapter: Path, clip_folder: Path) -> None:
    config = read_adapter_config(adapter)
    assert isinstance(config.trunk, OpenClipTrunk)
    expected = copy.deepcopy(find_open_clip(str(clip_folder)).preprocessing)
    assert config.trunk.preprocessing == expected
    assert config.heads == HEADS


class Colours:
    """A frozen encoder of a user's own: the mean colour of an image, letters of a text."""

    name = "colours"
    image_size = 16

    def __init__(self, fingerprint: str = "colours 1") -> None:
        self.fingerprint = fingerprint

    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
        """[B, 3]."""
        return np.stack([np.asarray(image.convert("RGB"), float).mean((0, 1)) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """[T, 3]."""
        return np.array([[1.0 + text.count(letter) for letter in "rgb"] for text in texts])


def test_any_object_with_embeddings_can_be_the_trunk(tmp_path: Path) -> None:
    trunk = Colours()
    stated = ObjectTrunk(name=trunk.name, fingerprint=trunk.fingerprint)
    folder = write_adapter(tmp_path / "adapter", stated, heads_of(dim=3))
    encoder = with_trunk(folder, trunk)
    assert isinstance(encoder, Encoder)
    texts = trunk.encode_texts(TEXTS)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS).mean, unit, atol=1e-6)
    prepared = np.stack([encoder.prepare_image(photo) for photo in photos()])
    assert encoder.encode_prepared(prepared).mean.shape == (3, 3)
    assert len(encoder.encode_images([])) == len(encoder.encode_texts([])) == 0
    assert not encoder.is_truncated("a")
    with pytest.raises(ConfigError, match="with_trunk"):
        load_encoder(folder)
    with pytest.raises(CheckpointError, match=r"trained over colours"):
        with_trunk(folder, Colours("colours 2"))


def test_a_mean_that_may_move_starts_as_the_trunks() -> None:
    heads = AdapterHeads(6, AdapterHeadsConfig(freeze_mean=False, initial_uncertainty=0.2))
    embedding = torch.randn(4, 6)
    mean, log_variance = heads.encode_image(embedding)
    torch.testing.assert_close(mean, embedding)
    torch.testing.assert_close(log_variance.exp().sum(dim=1), torch.full((4,), 0.2))
    mean.sum().backward()
    assert heads.image.mean_out.weight.grad is not None
