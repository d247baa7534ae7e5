"""From captioned photos and a frozen encoder to an adapter: what `prolip-search train` runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import normalize

from prolip_search.confidence.logistic import fit_logistic
from prolip_search.distances import MatchLogit
from prolip_search.encoders.adapter import HEADS, TOKENIZER, AdapterConfig, ObjectTrunk
from prolip_search.encoders.adapter_towers import AdapterHeads, GaussianHead, PointEncoder
from prolip_search.errors import TrainingDataError, TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import spearman
from prolip_search.train.adapter.config import AdapterTrainConfig
from prolip_search.train.adapter.features import (
    CaptionedPoints,
    PairsOfPoints,
    captioned_points,
    forms_of_points,
)
from prolip_search.train.adapter.trunk import OpenClipPoints
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.evaluation.recalls import retrieval
from prolip_search.train.evaluation.uncertainty import agreement, inclusion_share
from prolip_search.train.feature_cache import Progress
from prolip_search.train.towers.loop import Step, train_towers
from prolip_search.train.towers.processes import Processes
from prolip_search.train.whole_files import write_whole

__all__ = ["TrainedAdapter", "export_adapter", "train_adapter", "train_heads"]

N_FOR_MATCH_LOGIT = 1_000  # photos; their pairs are a million
SMALLEST_SCALE = 1.0
RIDGE = 1e-6


@dataclass(frozen=True)
class TrainedAdapter:
    """The folder that `load_encoder` takes, figures on val, and the photos that were left out."""

    folder: Path
    val: dict[str, float]
    skipped: tuple[Skipped, ...]


def train_adapter(
    config: AdapterTrainConfig,
    data: Path,
    out: Path,
    *,
    trunk: PointEncoder | None = None,
    val: Path | None = None,
    resume: bool = False,
    cache: Path | None = None,
    progress: Progress = lambda what, done, total: None,
    report: Callable[[Step], None] = lambda step: None,
) -> TrainedAdapter:
    """Embeds photos and captions once, trains the heads, measures them on val, exports into `out`.

    data: as `open_captioned` takes it, or a folder with a train and perhaps a val file. trunk: a
    Python object in place of the recipe's [trunk]. cache: for the embeddings, else `out/features`.
    Raises ConfigError, EncoderNotFound, CheckpointError, TrainingDataError, TrainingError.
    """
    processes = Processes(config.execution.device)
    trunk = trunk or OpenClipPoints(config.trunk, processes.device)
    train_data, val_data = _open(data, val)
    cache = cache or out / "features"

    def embed(some: CaptionedImages) -> CaptionedPoints:
        return captioned_points(
            some, trunk, cache, n_shortenings=config.n_shortenings, progress=progress
        )

    points = embed(train_data)
    val_points = None if val_data is None else embed(val_data)
    heads = train_heads(
        config, points, out, val=val_points, processes=processes, resume=resume, report=report
    )
    figures = {} if val_points is None else measure(heads, val_points)
    training = {"recipe": config.to_json(), "val": figures, "n_photos": len(points.keys)}
    export_adapter(heads, trunk, out, training=training)
    return TrainedAdapter(out, figures, points.skipped)


def train_heads(
    config: AdapterTrainConfig,
    points: CaptionedPoints,
    out: Path,
    *,
    val: CaptionedPoints | None = None,
    processes: Processes | None = None,
    resume: bool = False,
    report: Callable[[Step], None] = lambda step: None,
) -> AdapterHeads:
    """Heads over cached embeddings, trained by the loop of the towers. Raises TrainingError."""
    torch.manual_seed(config.seed)
    heads = AdapterHeads(points.images.shape[-1], config.heads)
    begin_at_trunk(heads, points, config.batch_size)

    def validate(module: nn.Module) -> dict[str, float]:
        assert val is not None
        return measure(module, val)  # type: ignore[arg-type]  # the heads, as the loop holds them

    trained = train_towers(
        config,
        heads,
        PairsOfPoints(points, batch_size=config.batch_size, seed=config.seed),
        forms_of_points,
        out,
        processes=processes or Processes(config.execution.device),
        resume=resume,
        validate=None if val is None else validate,
        report=report,
    )
    assert isinstance(trained, AdapterHeads)
    return trained.cpu()


@torch.no_grad()
def begin_at_trunk(heads: AdapterHeads, points: CaptionedPoints, batch_size: int) -> None:
    """Sets the mean lengths of embeddings, and the match logit that fits the trunk's cosines best.

    The match logit is a logistic regression of "belongs together" on the cosine, each batch's
    share of true pairs kept: where a run would take thousands of steps to move it to.
    """
    heads.image.length.fill_(points.images.norm(dim=1).mean())
    heads.text.length.fill_(points.captions.norm(dim=1).mean())
    n = min(N_FOR_MATCH_LOGIT, len(points.images))
    images = normalize(points.images[:n], dim=1)
    texts = normalize(points.captions[points.first[:n]], dim=1)
    closeness = (images @ texts.T - heads.config.initial_uncertainty).double().numpy().ravel()
    labels = np.eye(n, dtype=bool).ravel()
    weights = np.where(labels, 1.0, (batch_size - 1) / max(1, n - 1))
    middle, spread = closeness.mean(), closeness.std() + 1e-9
    fit = fit_logistic(
        ((closeness - middle) / spread)[:, None], labels, penalty=RIDGE, weights=weights
    )
    scale = max(SMALLEST_SCALE, float(fit.weights[0]) / spread)
    heads.logit_scale.fill_(min(math.log(scale), math.log(100)))
    heads.logit_bias.fill_(fit.intercept - heads.logit_scale.exp().item() * middle)


@torch.no_grad()
def measure(heads: AdapterHeads, points: CaptionedPoints) -> dict[str, float]:
    """What an adapter does on captioned photos that it was not trained on.

    Recall@1 both ways in percent by cosine and by CSD; how often a shortened caption is more
    uncertain than the whole one and includes it; Spearman's ρ between a photo's uncertainty and
    the rank of its first caption.
    """
    images = gaussians(heads.image, points.images)
    texts = gaussians(heads.text, points.captions)
    short = gaussians(heads.text, points.shortened[0])
    recalls = retrieval(images, texts, points.owners)
    figures = {
        f"recall_at_1_{way}_{name}": float(getattr(recalls[name], way)[0])
        for name in ("cosine", "csd")
        for way in ("t2i", "i2t")
    }
    similarities = texts.mean @ images.mean.T
    own = similarities[np.arange(len(texts)), points.owners]
    ranks = (similarities > own[:, None]).sum(axis=1)
    return {
        **figures,
        "shortened_is_more_uncertain": agreement(texts, short),
        "shortened_includes_whole": inclusion_share(texts, short),
        "text_uncertainty_against_rank": spearman(texts.uncertainty, ranks),
    }


@torch.no_grad()
def gaussians(head: GaussianHead, embeddings: Tensor) -> Gaussians:
    """Embeddings [N, D] -> Gaussians [N, D]."""
    mean, log_variance = head(embeddings.to(head.variance_out.weight.device))
    return Gaussians.from_raw(mean.cpu().numpy(), log_variance.cpu().numpy())


def export_adapter(
    heads: AdapterHeads, trunk: PointEncoder, folder: Path, *, training: Mapping[str, Any]
) -> AdapterConfig:
    """Writes heads.safetensors, config.json and, where the trunk has one, tokenizer.json.

    Raises TrainingError where the disk refuses.
    """
    opened = trunk if isinstance(trunk, OpenClipPoints) else None
    config = AdapterConfig(
        dim=heads.dim,
        heads=heads.config,
        match_logit=MatchLogit(round(heads.match_logit.scale, 6), round(heads.match_logit.bias, 6)),
        trunk=(
            ObjectTrunk(name=trunk.name, fingerprint=trunk.fingerprint)
            if opened is None
            else opened.description
        ),
        training=dict(training),
    )
    state = {name: value.detach().contiguous() for name, value in heads.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Bytes written by us get ordinary permissions; safetensors' own files are private.
        write_whole(folder / HEADS, lambda path: path.write_bytes(save(state)))
        if opened is not None and opened.tokenizer_file is not None:
            tokenizer = opened.tokenizer_file
            write_whole(folder / TOKENIZER, lambda path: shutil.copyfile(tokenizer, path))
        text = json.dumps(config.to_json(folder / HEADS), indent=2) + "\n"
        write_whole(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise TrainingError(
            f"The adapter cannot be written to {folder} ({error}); make room there or give another "
            "folder."
        ) from error
    return config


def _open(data: Path, val: Path | None) -> tuple[CaptionedImages, CaptionedImages | None]:
    """Training and validation data; a folder may hold both."""
    if not data.is_dir():
        return open_captioned(data), None if val is None else open_captioned(val)
    train = open_captioned(data, split="train")
    if val is not None:
        return train, open_captioned(val)
    try:
        return train, open_captioned(data, split="val")
    except TrainingDataError:
        return train, None  # there is none beside it: nothing is measured
