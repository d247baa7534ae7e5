"""Captioned photos on disk, and the features of the frozen trunks that the heads are trained on.

A split is one Parquet file with the columns `id`, `captions` (a list of texts) and `image` (the
bytes of a photo). The trunks never change, so each photo and caption goes through them once:
what comes out is kept in blocks (`feature_cache.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from prolip_search.train.datasets.parquet import ImageColumn
from prolip_search.train.feature_cache import Progress, cache_key, cached_blocks

N_PHOTOS_PER_BLOCK = 512  # 102 MB of features: little is lost when a block is interrupted
N_TEXTS_PER_BLOCK = 4096
N_PHOTOS_PER_PASS = 32
N_TEXTS_PER_PASS = 128
CROP_AREA = (0.5, 0.9)  # of the photo's
CROP_LOG_RATIO = (-0.15, 0.15)


class Trunks(Protocol):
    """The frozen networks below the heads, and what has to be known to keep their outputs."""

    fingerprint: str  # weights, tokenizer and preprocessing: another one, other features

    def prepare(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB image -> pixels [3, H, W]."""

    def image(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Pixels [B, 3, H, W] -> tokens [B, P, C]."""

    def tokenize(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Token ids of each text, without padding."""

    def text(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Ids [B, L], padded with 0 -> tokens [B, L, E]."""


def read_split(folder: Path, name: str) -> CaptionedImages:
    """The split `name` of a data folder.

    Raises TrainingDataError: no such file, not Parquet, columns missing, no rows, a row without
    captions (they are all cached, so none is passed over).
    """
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise TrainingDataError(
            f"There is no {path}. The data folder must hold train.parquet and val.parquet with the "
            "columns id, captions (a list of texts) and image (the bytes of a photo)."
        )
    data = open_captioned(path)
    if data.skipped:
        raise TrainingDataError(
            f"{data.skipped[0].key} of {path} has no list of captions; "
            "each photo needs at least one text."
        )
    return replace(data, name=name)


@dataclass(frozen=True)
class TextFeatures:
    """Tokens of T texts, end to end: texts differ in length, and padding would double the size."""

    tokens: Tensor  # [sum of lengths, E] float16
    offsets: Tensor  # [T + 1] int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B] -> tokens [B, L, E] float32, zero where padded, and their mask [B, L]."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        positions = (self.offsets[rows, None] + steps).clamp(max=len(self.tokens) - 1)
        return self.tokens[positions].float() * mask[..., None], mask


PhotoBlocks = Callable[[], Iterator[Tensor]]  # tokens [n, P, C] float16, block after block


def photo_blocks(
    split: CaptionedImages, view: str, trunks: Trunks, folder: Path, progress: Progress
) -> PhotoBlocks:
    """The trunk's tokens of every photo of a split in one view, cached now and read when called.

    view: `whole`, `flipped`, or `crop` (a random part of at least half the area, either way round).
    """

    def encode(rows: range) -> dict[str, Tensor]:
        passes = []
        for start in range(rows.start, rows.stop, N_PHOTOS_PER_PASS):
            some = range(start, min(start + N_PHOTOS_PER_PASS, rows.stop))
            pixels = np.stack([_prepare_view(split.image(row), view, row, trunks) for row in some])
            passes.append(torch.from_numpy(trunks.image(pixels)).half())
        return {"tokens": torch.cat(passes)}

    what = f"{split.name} photos, {view}"
    read = partial(
        cached_blocks,
        folder / f"{split.name}-photos-{view}",
        len(split),
        N_PHOTOS_PER_BLOCK,
        encode,
    )
    for _ in read(lambda done: progress(what, done, len(split))):
        pass  # made and kept; a block is read again when it is needed
    return lambda: (block["tokens"] for block in read(lambda done: None))


def _prepare_view(photo: Image.Image, view: str, row: int, trunks: Trunks) -> npt.NDArray[np.uint8]:
    if view == "crop":
        rng = np.random.default_rng(row)
        area, ratio = rng.uniform(*CROP_AREA), np.exp(rng.uniform(*CROP_LOG_RATIO))
        width, height = min(1.0, np.sqrt(area) * ratio), min(1.0, np.sqrt(area) / ratio)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        box = (left, top, left + width, top + height)
        sides = (photo.width, photo.height) * 2
        photo = photo.crop(tuple(round(b * side) for b, side in zip(box, sides, strict=True)))
        view = "flipped" if rng.random() < 0.5 else "whole"
    pixels = trunks.prepare(photo)
    return np.ascontiguousarray(pixels[..., ::-1]) if view == "flipped" else pixels


def text_features(
    texts: Sequence[str], what: str, trunks: Trunks, folder: Path, progress: Progress
) -> TextFeatures:
    """Tokens of every text, in order; `what` names them in the progress and, with a digest of the
    texts themselves, in the cache."""

    def encode(rows: range) -> dict[str, Tensor]:
        ids = trunks.tokenize([texts[row] for row in rows])
        lengths = np.array([len(i) for i in ids])
        outputs: list[npt.NDArray[np.float16]] = [np.empty(0, np.float16)] * len(ids)
        # Sorted by length, a pass holds hardly any padding.
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), N_TEXTS_PER_PASS):
            some = order[start : start + N_TEXTS_PER_PASS]
            padded = np.zeros((len(some), lengths[some].max()), np.int64)
            for place, row in enumerate(some):
                padded[place, : lengths[row]] = ids[row]
            tokens = trunks.text(padded).astype(np.float16)
            for place, row in enumerate(some):
                outputs[row] = tokens[place, : lengths[row]]
        return {
            "tokens": torch.from_numpy(np.concatenate(outputs)),
            "lengths": torch.from_numpy(lengths.astype(np.int64)),
        }

    blocks = list(
        cached_blocks(
            folder / f"{what.replace(' ', '-')}-{cache_key(*texts)[:8]}",
            len(texts),
            N_TEXTS_PER_BLOCK,
            encode,
            lambda done: progress(what, done, len(texts)),
        )
    )
    lengths = torch.cat([block["lengths"] for block in blocks])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return TextFeatures(torch.cat([block["tokens"] for block in blocks]), offsets)


def batches(n_rows: int, n_per_batch: int = 1000) -> Iterator[Tensor]:
    """The rows 0 to n_rows, some at a time: what is computed for all need not exist for all."""
    for start in range(0, n_rows, n_per_batch):
        yield torch.arange(start, min(start + n_per_batch, n_rows))


def split_key(split: CaptionedImages) -> str:
    """A digest of a split's photos and captions."""
    digest = hashlib.sha256(json.dumps([split.ids, split.captions]).encode())
    if isinstance(split.images, ImageColumn):
        for chunk in split.images.cells.chunks:
            for buffer in chunk.buffers():
                if buffer is not None:
                    digest.update(buffer)
    else:
        for row in range(len(split)):
            digest.update(split.images[row])
    return digest.hexdigest()
