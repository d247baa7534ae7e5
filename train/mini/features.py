"""What the heads are trained on: a data folder, gone through the frozen trunks once.

The photos' raw tokens (2.5 GB for 6,000 photos in two views) stay on disk. In memory are only what
the heads read: projected tokens, the mean token, and a few masked forms of each view.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prolip_search.encoders.mini_towers import EPS, MiniHeads, mean_token
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.feature_cache import Progress, cache_key
from prolip_search.train.masking import N_SHORTENINGS, shortened_caption, stop_or_not
from prolip_search.train.mini.config import TrainConfig
from prolip_search.train.mini.data import (
    PhotoBlocks,
    TextFeatures,
    Trunks,
    batches,
    photo_blocks,
    split_key,
    text_features,
)

__all__ = ["PhotoFeatures", "TrainingFeatures", "fit_statistics", "prepare_features"]

N_PHOTOS_FOR_STATISTICS = 900
CLASS_PROMPT = "a photo of a {}"
# A made-up photo of a class: the mean photo, moved along the classifier's row by so many
# standard deviations. Two are enough for the classifier itself to be sure of every class.
PROTOTYPE_DEVIATIONS = 2.0
LARGEST_ACTIVATION = 6.0  # the trunk ends in ReLU6


@dataclass(frozen=True)
class PhotoFeatures:
    """N photos in one view."""

    tokens: Tensor  # [N, P, C] float16, projected
    features: Tensor  # [N, F] float16, what the heads make of the mean token
    classes: Tensor  # [N, 1000] float16, the trunk's log-probability of each ImageNet class
    kept: Tensor  # [N, M, K] int16, which tokens each masked form keeps
    kept_features: Tensor  # [N, M, F] float16, from the mean of those


@dataclass(frozen=True)
class TrainingFeatures:
    """Everything that the loop reads. Captions of photo i are rows first[i] to first[i + 1]."""

    photos: list[PhotoFeatures]  # one per view
    captions: TextFeatures
    first: Tensor  # [N + 1] int64
    shortened: list[TextFeatures]  # row by row with the captions
    class_prompts: TextFeatures  # [1000]
    prototypes: tuple[Tensor, Tensor]  # features [1000, F] and token [1000, 1, C] of made-up photos

    @property
    def n_photos(self) -> int:
        """N."""
        return len(self.first) - 1


def prepare_features(
    split: CaptionedImages,
    config: TrainConfig,
    heads: MiniHeads,
    trunks: Trunks,
    folder: Path,
    progress: Progress,
    *,
    class_names: list[str],
) -> TrainingFeatures:
    """The features of a split, from the cache where it has them, and the heads' statistics set."""
    folder = folder / cache_key(trunks.fingerprint, split_key(split))
    blocks = {view: photo_blocks(split, view, trunks, folder, progress) for view in config.views}
    whole = [caption for captions in split.captions for caption in captions]
    texts = [stop_or_not(text) for text in whole]
    captions = text_features(texts, f"{split.name} captions", trunks, folder, progress)
    shortened = []
    for number in range(N_SHORTENINGS):
        some = [shortened_caption(text, number) for text in whole]
        what = f"{split.name} shortened captions {number + 1}"
        shortened.append(text_features(some, what, trunks, folder, progress))
    prompts = [CLASS_PROMPT.format(name) for name in class_names]
    class_prompts = text_features(prompts, "class prompts", trunks, folder, progress)
    names = text_features(class_names, "class names", trunks, folder, progress)
    fit_statistics(heads, blocks[config.views[0]], captions, names)
    photos = [
        _photo_features(blocks[view], heads, config, n) for n, view in enumerate(config.views)
    ]
    counts = torch.tensor([len(some) for some in split.captions])
    first = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    prototypes = _prototypes(heads, blocks[config.views[0]])
    return TrainingFeatures(photos, captions, first, shortened, class_prompts, prototypes)


def fit_statistics(
    heads: MiniHeads, photos: PhotoBlocks, captions: TextFeatures, class_names: TextFeatures
) -> None:
    """Sets the buffers of both heads from the training data.

    The image trunk's channels are projected to their principal directions, each divided by the
    fourth root of its variance: half-way between keeping and whitening them.
    """
    image, text = heads.image, heads.text
    pooled = torch.cat([block.float().mean(dim=1) for block in photos()])
    every = max(1, len(pooled) // N_PHOTOS_FOR_STATISTICS)
    tokens = torch.cat([block[::every].float() for block in photos()]).flatten(0, 1)
    tokens = (tokens + EPS).sqrt()
    root = (pooled + EPS).sqrt()
    image.pooled_mean.copy_(root.mean(dim=0))
    image.pooled_std.copy_(root.std(dim=0) + 1e-3)
    image.token_mean.copy_(tokens.mean(dim=0))
    image.token_std.copy_(tokens.std(dim=0) + 1e-2)
    tokens = (tokens - image.token_mean) / image.token_std
    variances, directions = torch.linalg.eigh(tokens.T @ tokens / len(tokens))
    width = heads.config.image_token_width
    largest = variances.flip(0)[:width].clamp(min=1e-6)
    projection = directions.flip(1)[:, :width] / largest**0.25
    image.token_projection.copy_(projection / (tokens @ projection).std())

    vectors = _sentence_vectors(class_names)  # [1000, 384]
    probability = image.class_logits(pooled).softmax(dim=1)
    class_vector = probability @ vectors
    # The probabilities sum to 1, so centring the vectors centres their mixture.
    image.class_vectors.copy_((vectors - class_vector.mean(dim=0)) / class_vector.std(dim=0).mean())
    entropy = -(probability * (probability + EPS).log()).sum(dim=1)
    image.entropy_mean.copy_(entropy.mean())
    image.entropy_std.copy_(entropy.std() + EPS)

    sentences = _sentence_vectors(captions)
    text.pooled_mean.copy_(sentences.mean(dim=0))
    text.pooled_std.copy_(sentences.std(dim=0) + 1e-3)
    some = captions.tokens[:200_000].float()
    text.token_mean.copy_(some.mean(dim=0))
    # One of MiniLM's channels hardly varies at all.
    text.token_std.copy_(some.std(dim=0) + 1e-2)


def _photo_features(
    blocks: PhotoBlocks, heads: MiniHeads, config: TrainConfig, number: int
) -> PhotoFeatures:
    """What the heads read of one view; the masks are the same for every seed."""
    generator = torch.Generator().manual_seed(number)
    image = heads.image
    parts = []
    for block in blocks():
        tokens = block.float()
        n_rows, n_tokens, _ = tokens.shape
        n_kept = max(1, round(config.share_of_tokens_kept * n_tokens))
        draws = torch.rand(n_rows, config.n_masks, n_tokens, generator=generator)
        kept = draws.argsort(dim=2)[:, :, :n_kept]  # [n, M, K]
        rows = torch.arange(n_rows)[:, None]
        kept_features = [
            image.describe(tokens[rows, kept[:, m]].mean(dim=1)) for m in range(config.n_masks)
        ]
        pooled = tokens.mean(dim=1)
        parts.append(
            (
                image.project(tokens).half(),
                image.describe(pooled).half(),
                image.class_logits(pooled).log_softmax(dim=1).half(),
                kept.to(torch.int16),
                torch.stack(kept_features, dim=1).half(),
            )
        )
    return PhotoFeatures(*(torch.cat(some) for some in zip(*parts, strict=True)))


def _prototypes(heads: MiniHeads, blocks: PhotoBlocks) -> tuple[Tensor, Tensor]:
    pooled = torch.cat([block.float().mean(dim=1) for block in blocks()])
    weight = heads.image.classifier_weight
    direction = (weight - weight.mean(dim=0)) / (weight.std() + EPS)
    moved = pooled.mean(dim=0) + PROTOTYPE_DEVIATIONS * pooled.std(dim=0) * direction
    moved = moved.clamp(0, LARGEST_ACTIVATION)
    return heads.image.describe(moved), heads.image.project(moved[:, None])


def _sentence_vectors(texts: TextFeatures) -> Tensor:
    """MiniLM's sentence vectors [T, 384]."""
    parts = [mean_token(*texts.batch(rows)) for rows in batches(len(texts))]
    return normalize(torch.cat(parts), dim=1)
