"""An adapter learns what an embedding leaves open, and leaves frozen means alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prolip_search.encoders.adapter_towers import AdapterHeads, with_trunk
from prolip_search.encoders.loading import load_encoder
from prolip_search.errors import CheckpointError, ConfigError, TrainingError
from prolip_search.metrics import spearman
from prolip_search.train.adapter.config import AdapterTrainConfig
from prolip_search.train.adapter.training import (
    begin_at_trunk,
    gaussians,
    measure,
    train_adapter,
    train_heads,
)
from prolip_search.train.recipes import read_recipe
from tests.encoders.conftest import write_tokenizer
from tests.train.adapter.test_features import Colours, write_photos
from tests.train.adapter.worlds import DIM, ambiguous_world
from tests.train.towers.clips import CLIP, SIGLIP_PIXELS, make_clip, save_clip

SETTINGS = (
    "batch_size=64",
    "seen_samples=7680",
    "optimizer.warmup_steps=10",
    "heads.variance_hidden=32",
    "heads.mean_hidden=16",
    "execution.device=cpu",
)


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small heads are slower on many."""
    monkeypatch.setenv("PROLIP_SEARCH_CACHE", str(tmp_path / "cache"))
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def recipe(*settings: str) -> AdapterTrainConfig:
    """The adapter's recipe, in small."""
    config = read_recipe("adapter", [*SETTINGS, *settings])
    assert isinstance(config, AdapterTrainConfig)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> AdapterHeads:
    """Heads with frozen means, looked at by several tests."""
    torch.set_num_threads(1)
    return train_heads(recipe(), ambiguous_world(600, 0), tmp_path_factory.mktemp("run"))


def test_what_says_less_becomes_more_uncertain(trained: AdapterHeads) -> None:
    world = ambiguous_world(300, 1)  # none of it was seen in training
    figures = measure(trained, world)
    assert figures["shortened_is_more_uncertain"] > 0.95
    assert figures["shortened_includes_whole"] > 0.95
    # Among whole captions, which the inclusion losses do not compare: those nearer the common
    # direction leave more open.
    vague = torch.nn.functional.normalize(world.captions, dim=1)[:, 0].numpy()
    texts = gaussians(trained.text, world.captions)
    assert spearman(vague, texts.uncertainty) > 0.5
    before = AdapterHeads(DIM, trained.config)
    assert measure(before, world)["shortened_is_more_uncertain"] < 0.5


def test_frozen_means_keep_every_ranking_by_cosine(trained: AdapterHeads) -> None:
    world = ambiguous_world(300, 1)
    for head, points in ((trained.image, world.images), (trained.text, world.captions)):
        unit = torch.nn.functional.normalize(points, dim=1).numpy()
        np.testing.assert_allclose(gaussians(head, points).mean, unit, atol=1e-6)
    untrained = measure(AdapterHeads(DIM, trained.config), world)
    for name in ("recall_at_1_t2i_cosine", "recall_at_1_i2t_cosine"):
        assert measure(trained, world)[name] == untrained[name]


def test_means_that_may_move_do_better_where_the_trunk_is_crooked(tmp_path: Path) -> None:
    """The same world, its captions turned a little: a trunk that a mean head can repair."""
    turn = torch.linalg.qr(torch.eye(DIM) + 0.35 * ambiguous_world(DIM, 9).images[:, :DIM]).Q
    worlds = [replace(w, captions=w.captions @ turn, shortened=w.shortened @ turn)
              for w in (ambiguous_world(600, 0), ambiguous_world(300, 1))]  # fmt: skip
    frozen = measure(AdapterHeads(DIM, recipe().heads), worlds[1])
    config = recipe("heads.freeze_mean=false", "optimizer.learning_rate=1e-2")
    moved = measure(train_heads(config, worlds[0], tmp_path), worlds[1])
    assert moved["recall_at_1_t2i_cosine"] > frozen["recall_at_1_t2i_cosine"] + 5


def test_the_match_logit_starts_where_pairs_are_told_apart_best() -> None:
    world = ambiguous_world(400, 2)
    heads = AdapterHeads(DIM, recipe().heads)
    begin_at_trunk(heads, world, batch_size=400)
    cosines = (
        gaussians(heads.image, world.images).mean @ gaussians(heads.text, world.captions).mean.T
        - 0.05
    )

    def loss(scale: float, bias: float) -> float:
        logits = scale * cosines + bias
        signed = np.where(np.eye(400, dtype=bool), logits, -logits)
        return float(np.logaddexp(0, -signed).sum() / 400)

    scale, bias = heads.match_logit.scale, heads.match_logit.bias
    best = loss(scale, bias)
    for other in (
        (scale * 1.1, bias),
        (scale / 1.1, bias),
        (scale, bias + 0.5),
        (scale, bias - 0.5),
    ):
        assert loss(*other) > best


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    world = ambiguous_world(200, 0)
    short = recipe("seen_samples=1280", "checkpoints.every=5")
    whole = train_heads(short, world, tmp_path / "whole").state_dict()

    class Stopped(Exception):
        """As if the power went."""

    def stop(step: Any) -> None:
        if step.step == 13:
            raise Stopped

    with pytest.raises(Stopped):
        train_heads(short, world, tmp_path / "cut", report=stop)
    resumed = train_heads(short, world, tmp_path / "cut", resume=True).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_from_photos_to_an_encoder_over_a_clip(tmp_path: Path) -> None:
    words = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "vocab_size": 49_408}}
    clip = save_clip(tmp_path / "clip", make_clip(words), words)
    (tmp_path / "data").mkdir()
    for split in ("train", "val"):
        write_photos(tmp_path / "data" / f"{split}.parquet")
    config = recipe(
        f"trunk.architecture={clip}", "batch_size=4", "seen_samples=48", "n_shortenings=1"
    )
    result = train_adapter(config, tmp_path / "data", tmp_path / "out")
    assert [skip.key for skip in result.skipped] == ["photo/2"]
    assert "recall_at_1_t2i_csd" in result.val
    encoder = load_encoder(result.folder, runtime="torch")
    texts = encoder.encode_texts(["a picture", "green things"])
    assert texts.mean.shape == (2, 32)
    assert encoder.match_logit.scale > 0
    facts = (tmp_path / "out" / "config.json").read_text()
    assert '"n_photos": 5' in facts


def test_from_photos_to_an_encoder_over_an_object(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos.parquet")
    config = recipe("batch_size=4", "seen_samples=48")
    result = train_adapter(config, tmp_path / "photos.parquet", tmp_path / "out", trunk=Colours())
    assert result.val == {}
    encoder = with_trunk(result.folder, Colours())
    assert encoder.encode_texts(["red"]).mean.shape == (1, 3)


def test_the_tokenizer_of_a_siglip_travels_with_its_adapter(tmp_path: Path) -> None:
    text = {"vocab_size": 64, "pool_type": "last", "no_causal_mask": True}
    tokens = {"hf_tokenizer_name": "some/name", "tokenizer_kwargs": {"clean": "canonicalize"}}
    siglip = {**CLIP, "custom_text": True, "text_cfg": {**CLIP["text_cfg"], **text, **tokens}}
    folder = save_clip(tmp_path / "siglip", make_clip(siglip), siglip, SIGLIP_PIXELS)
    write_tokenizer(tmp_path / "pieces.json")
    write_photos(tmp_path / "photos.parquet")
    config = recipe(
        f"trunk.architecture={folder}",
        f"trunk.tokenizer={tmp_path / 'pieces.json'}",
        "batch_size=4",
        "seen_samples=48",
    )
    result = train_adapter(config, tmp_path / "photos.parquet", tmp_path / "out")
    (tmp_path / "pieces.json").unlink()
    encoder = load_encoder(result.folder, runtime="torch")
    assert encoder.parts.preprocessing.resize == "squash"
    assert encoder.encode_texts(["a dog"]).mean.shape == (1, 32)
    (result.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not the tokenizer"):
        load_encoder(result.folder, runtime="torch").encode_texts(["a dog"])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos.parquet")
    with pytest.raises(ConfigError, match=r"--set trunk\.architecture"):
        train_adapter(recipe(), tmp_path / "photos.parquet", tmp_path / "out")
    with pytest.raises(ConfigError, match="n_shortenings = 9"):
        recipe("n_shortenings=9")
    with pytest.raises(ConfigError, match=r"did you mean heads\.freeze_mean"):
        recipe("heads.freeze_means=true")
    siglip = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "hf_tokenizer_name": "some/name"}}
    folder = save_clip(tmp_path / "siglip", make_clip(), siglip)
    with pytest.raises(ConfigError, match=r"name its tokenizer\.json as trunk\.tokenizer"):
        train_adapter(
            recipe(f"trunk.architecture={folder}"), tmp_path / "photos.parquet", tmp_path / "out"
        )


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    world = ambiguous_world(100, 0)
    config = recipe("seen_samples=1280")
    train_heads(config, world, tmp_path)
    with pytest.raises(TrainingError, match="holds a run already"):
        train_heads(config, world, tmp_path)
