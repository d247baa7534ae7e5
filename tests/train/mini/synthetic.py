"""Stand-ins for what training reads: drawn photos, trunks without weights, random features."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from prolip_search.encoders.mini import HeadsConfig
from prolip_search.encoders.mini_towers import IMAGE_CHANNELS, TEXT_CHANNELS, MiniHeads
from prolip_search.train.mini.config import ClassWeights, TrainConfig
from prolip_search.train.mini.data import TextFeatures
from prolip_search.train.mini.features import PhotoFeatures, TrainingFeatures

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200)}
SMALL_HEADS = HeadsConfig(
    n_members=2,
    member_dim=4,
    image_token_width=6,
    n_mean_tokens=2,
    n_variance_tokens=1,
    value_width=3,
    image_hidden=8,
    text_hidden=8,
    variance_hidden=4,
)
SMALL = TrainConfig(
    seed=3,
    epochs=3,
    photos_per_batch=4,
    captions_per_photo=2,
    n_masks=2,
    heads=SMALL_HEADS,
    classes=ClassWeights(n_per_step=5),
)


def write_split(folder: Path, name: str, n_photos: int) -> None:
    """A Parquet file of plain drawn photos, two captions each."""
    rows = []
    for number in range(n_photos):
        colour = list(COLOURS)[number % len(COLOURS)]
        buffer = io.BytesIO()
        Image.new("RGB", (20 + number, 16), COLOURS[colour]).save(buffer, "JPEG")
        captions = [f"a {colour} picture {number} .", f"Something wide and {colour}"]
        rows.append({"id": f"{name}/{number}", "captions": captions, "image": buffer.getvalue()})
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


class FakeTrunks:
    """Trunks that see colours and letters; counts what they were asked."""

    fingerprint = "fake"

    def __init__(self, folder: Path) -> None:
        self.n_photos = 0
        self.n_texts = 0

    def give_classifier(self, heads: MiniHeads) -> None:
        """A classifier by position."""
        heads.image.classifier_weight.copy_(torch.eye(1000, IMAGE_CHANNELS))

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """[3, 4, 4]."""
        return np.asarray(image.resize((4, 4)), np.uint8).transpose(2, 0, 1).copy()

    def image(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """[B, 16, 1280], not negative."""
        self.n_photos += len(pixels)
        tokens = pixels.reshape(len(pixels), 3, 16).transpose(0, 2, 1).astype(np.float32) / 255
        waves = np.sin(np.arange(3 * IMAGE_CHANNELS, dtype=np.float32)).reshape(3, -1)
        return np.abs(tokens @ waves)

    def tokenize(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """A letter a token."""
        self.n_texts += len(texts)
        return [np.array([1 + ord(letter) % 50 for letter in text], np.int64) for text in texts]

    def text(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """[B, L, 384]."""
        return np.sin(ids[..., None] * np.arange(1, TEXT_CHANNELS + 1)).astype(np.float32)


def random_texts(n_texts: int, seed: int) -> TextFeatures:
    """Texts of one to five tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (n_texts,), generator=generator)
    tokens = torch.randn(int(lengths.sum()), TEXT_CHANNELS, generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return TextFeatures(tokens.half(), offsets)


def random_features(config: TrainConfig, n_photos: int = 10) -> TrainingFeatures:
    """Features of photos that show nothing, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    width, n_features = config.heads.image_token_width, IMAGE_CHANNELS + TEXT_CHANNELS + 1

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    photos = [
        PhotoFeatures(
            noise(n_photos, 9, width).half(),
            noise(n_photos, n_features).half(),
            noise(n_photos, 12).half(),
            torch.randint(0, 9, (n_photos, config.n_masks, 3), generator=generator).short(),
            noise(n_photos, config.n_masks, n_features).half(),
        )
        for _ in config.views
    ]
    return TrainingFeatures(
        photos=photos,
        captions=random_texts(3 * n_photos, 1),
        first=torch.arange(0, 3 * n_photos + 1, 3),
        shortened=[random_texts(3 * n_photos, 2), random_texts(3 * n_photos, 3)],
        class_prompts=random_texts(12, 4),
        prototypes=(noise(12, n_features), noise(12, 1, width)),
    )


def small_heads(config: TrainConfig) -> MiniHeads:
    """Heads at their beginning, the same at every call."""
    torch.manual_seed(config.seed)
    return MiniHeads(config.heads, dropout=config.dropout, input_dropout=config.input_dropout)
