"""From a folder of captioned photos to the heads of `mini`: what `prolip-search train` runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import IMAGENET_CLASSNAMES
from safetensors.torch import save
from torch import Tensor

from prolip_search.distances import MatchLogit
from prolip_search.encoders.mini import MiniConfig, make_mini_config
from prolip_search.encoders.mini_towers import MiniHeads, combine, load_heads
from prolip_search.errors import TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation.recalls import Recalls, retrieval
from prolip_search.train.feature_cache import Progress, cache_key
from prolip_search.train.mini.config import TrainConfig
from prolip_search.train.mini.data import (
    PhotoBlocks,
    TextFeatures,
    Trunks,
    batches,
    photo_blocks,
    read_split,
    split_key,
    text_features,
)
from prolip_search.train.mini.features import prepare_features
from prolip_search.train.mini.loop import Step, TrainedHeads, encode_texts, train_heads
from prolip_search.train.mini.trunks import MiniTrunks
from prolip_search.train.whole_files import write_whole

__all__ = ["TrainingResult", "export_heads", "train_mini"]


@dataclass(frozen=True)
class TrainingResult:
    """What a run gives: the folder with heads.safetensors and config.json, and recalls on val."""

    folder: Path
    config: MiniConfig
    val: dict[str, Recalls]


def train_mini(
    config: TrainConfig,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress = lambda what, done, total: None,
    report: Callable[[Step], None] = lambda step: None,
) -> TrainingResult:
    """Caches the trunks' features, trains, evaluates on val and exports into `out`.

    data holds train.parquet and val.parquet (`data.read_split`). Features go to `cache`, else to
    `out/features`; they depend on data and trunks only, so runs can share them.
    Raises TrainingDataError, TrainingError, EncoderNotFound, CheckpointError, ExportError.
    """
    train, val = read_split(data, "train"), read_split(data, "val")
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file; give a folder to train into.")
    cache = cache or out / "features"
    torch.manual_seed(config.seed)
    heads = MiniHeads(config.heads, dropout=config.dropout, input_dropout=config.input_dropout)
    heads.requires_grad_(True)
    trunks = MiniTrunks(cache)
    trunks.give_classifier(heads)
    features = prepare_features(
        train, config, heads, trunks, cache, progress, class_names=list(IMAGENET_CLASSNAMES)
    )
    val_photos, val_captions = _val_features(val, trunks, cache, progress)
    trained = train_heads(config, features, heads, out, resume=resume, report=report)

    # Measured as shipped: in float16 on disk, float32 in use
    exported = export_heads(trained, out, training={"recipe": config.to_json()})
    shipped = load_heads(out)
    trunks.give_classifier(shipped)
    owners = np.repeat(np.arange(len(val)), [len(some) for some in val.captions])
    images, texts = encode_photos(shipped, val_photos), encode_captions(shipped, val_captions)
    recalls = retrieval(images, texts, owners)
    figures = {name: some.to_json() for name, some in recalls.items()}
    exported = export_heads(trained, out, training={"recipe": config.to_json(), "val": figures})
    return TrainingResult(out, exported, recalls)


def export_heads(trained: TrainedHeads, folder: Path, *, training: dict[str, Any]) -> MiniConfig:
    """Writes heads.safetensors (float16) and config.json with its fingerprint into a folder."""
    heads_file = folder / "heads.safetensors"
    state = {name: value.half().contiguous() for name, value in trained.heads.state_dict().items()}
    # Bytes written by us get ordinary permissions; safetensors' own files are private.
    write_whole(heads_file, lambda path: path.write_bytes(save(state)))
    config = make_mini_config(
        heads=trained.heads.config,
        match_logit=MatchLogit(round(trained.logit_scale, 6), round(trained.logit_bias, 6)),
        heads_file=heads_file,
        training=training,
    )
    text = json.dumps(config.to_json(), indent=2, sort_keys=True) + "\n"
    write_whole(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))
    return config


@torch.no_grad()
def encode_photos(heads: MiniHeads, blocks: PhotoBlocks) -> Gaussians:
    """Gaussians of cached photos."""
    return _gaussians([heads.image(block.float()) for block in blocks()])


@torch.no_grad()
def encode_captions(heads: MiniHeads, texts: TextFeatures) -> Gaussians:
    """Gaussians of cached texts."""
    return _gaussians([combine(encode_texts(heads, texts, rows)) for rows in batches(len(texts))])


def _val_features(
    val: CaptionedImages, trunks: Trunks, cache: Path, progress: Progress
) -> tuple[PhotoBlocks, TextFeatures]:
    folder = cache / cache_key(trunks.fingerprint, split_key(val))
    captions = [caption for captions in val.captions for caption in captions]
    return (
        photo_blocks(val, "whole", trunks, folder, progress),
        text_features(captions, "val captions", trunks, folder, progress),
    )


def _gaussians(parts: list[tuple[Tensor, Tensor]]) -> Gaussians:
    mean = torch.cat([mean for mean, _ in parts]).numpy()
    return Gaussians.from_raw(mean, torch.cat([lv for _, lv in parts]).numpy())
