"""The photos of a Parquet file or a folder as Gaussians."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError, UnreadableImage
from prolip_search.files import CANDIDATE_SUFFIXES
from prolip_search.gaussians import Gaussians
from prolip_search.images import read_image
from prolip_search.train.evaluation.encoding import Progress, encode_images, silent


@dataclass(frozen=True, eq=False)
class Photos:
    """N photos of a data folder: ids [N], captions [N] (maybe none), gaussians [N, D]."""

    ids: Sequence[str]
    captions: Sequence[Sequence[str]]
    gaussians: Gaussians

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: npt.NDArray[np.integer]) -> Photos:
        """The chosen photos."""
        return Photos(
            [self.ids[row] for row in rows],
            [self.captions[row] for row in rows],
            self.gaussians[rows],
        )

    def __add__(self, other: Photos) -> Photos:
        """Both, in this order."""
        return Photos(
            [*self.ids, *other.ids],
            [*self.captions, *other.captions],
            Gaussians.concatenate([self.gaussians, other.gaussians]),
        )

    def pairs(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """All captions, and the row of the photo that each describes."""
        texts = [text for some in self.captions for text in some]
        return texts, np.repeat(np.arange(len(self)), [len(some) for some in self.captions])


def read_photos(
    source: Path,
    encoder: Encoder,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Photos:
    """The photos of a Parquet file (columns id, image, maybe captions) or of a folder of files.

    In a folder, the id of a photo is its path from there, with `/`. Raises TrainingDataError for a
    source without photos, and for a photo that cannot be decoded.
    """
    ids, captions, images = (
        _parquet(source) if source.is_file() else _folder(source, encoder.image_size)
    )
    if not ids:
        raise TrainingDataError(f"There are no photos in {source}.")

    encoded = encode_images(encoder, ids, images, cache, progress, f"photos of {source.name}")
    if encoded.skipped:
        raise TrainingDataError(encoded.skipped[0].detail)
    return Photos(ids, captions, encoded.gaussians)


_Images = Callable[[int], Image.Image]


def _parquet(file: Path) -> tuple[list[str], list[list[str]], _Images]:
    try:
        found = pq.read_schema(file).names
        missing = [name for name in ("id", "image") if name not in found]
        if missing:
            raise TrainingDataError(f"{file} has no column {', '.join(missing)}.")
        columns = [name for name in ("id", "image", "captions") if name in found]
        table = pq.read_table(file, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise TrainingDataError(f"{file} is not a readable Parquet file: {error}.") from error
    ids = [str(name) for name in table["id"].to_pylist()]
    captions: list[Any] = (
        table["captions"].to_pylist() if "captions" in columns else [None] * len(ids)
    )

    def image(row: int) -> Image.Image:
        try:
            return Image.open(io.BytesIO(table["image"][row].as_py())).convert("RGB")
        except (OSError, ValueError, TypeError) as error:
            raise TrainingDataError(
                f"The image {ids[row]} of {file} cannot be decoded: {error}."
            ) from error

    return ids, [list(some or ()) for some in captions], image


def _folder(folder: Path, min_side: int) -> tuple[list[str], list[list[str]], _Images]:
    if not folder.is_dir():
        raise TrainingDataError(f"There is no {folder}.")
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in CANDIDATE_SUFFIXES and file.is_file()
    )

    def image(row: int) -> Image.Image:
        try:
            return read_image(files[row], min_side=min_side).pixels
        except UnreadableImage as error:
            raise TrainingDataError(f"{error}") from error

    ids = [file.relative_to(folder).as_posix() for file in files]
    return ids, [[] for _ in ids], image
