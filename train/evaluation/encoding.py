"""Images and texts as Gaussians, whatever the encoder, each encoded once and kept in a cache."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians

Progress = Callable[[str, int, int], None]  # what, done, total

N_IMAGES_PER_BATCH = 32
N_TEXTS_PER_BATCH = 128
# The cache has a file for so many inputs: what an interruption costs at most.
N_PER_FILE = 2048


class Captioned(Protocol):
    """N images with captions: what `train.datasets.captioned` opens."""

    @property
    def name(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def captions(self) -> Sequence[Sequence[str]]: ...
    def image(self, row: int) -> Image.Image: ...


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Gaussians [M, D] of the images that could be read.

    rows [M]: which of the given images they are. skipped: (id, reason) of all others.
    """

    rows: npt.NDArray[np.int64]
    gaussians: Gaussians
    skipped: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """N images [N, D] and the T captions [T, D] that describe them.

    owners [T]: the row of the image that each caption was written for. skipped: (id, reason) of
    images that could not be read; their captions are left out with them.
    """

    name: str
    ids: Sequence[str]
    images: Gaussians
    captions: Sequence[str]
    texts: Gaussians
    owners: npt.NDArray[np.int64]
    skipped: Sequence[tuple[str, str]] = field(default_factory=tuple)


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def encode_captioned(
    data: Captioned, encoder: Encoder, cache: Path | None = None, progress: Progress = silent
) -> EncodedPairs:
    """All images and captions of a data set.

    Raises TrainingDataError when no image can be read or none has a caption.
    """
    encoded = encode_images(
        encoder, data.ids, data.image, cache, progress, f"images of {data.name}"
    )
    captions = [list(data.captions[row]) for row in encoded.rows]
    texts = [text for some in captions for text in some]
    if not texts:
        raise TrainingDataError(f"{data.name} has no captions.")
    return EncodedPairs(
        name=data.name,
        ids=[data.ids[row] for row in encoded.rows],
        images=encoded.gaussians,
        captions=texts,
        texts=encode_texts(encoder, texts, cache, progress, f"captions of {data.name}"),
        owners=np.repeat(np.arange(len(captions)), [len(some) for some in captions]),
        skipped=encoded.skipped,
    )


def encode_texts(
    encoder: Encoder,
    texts: Sequence[str],
    cache: Path | None = None,
    progress: Progress = silent,
    what: str = "texts",
) -> Gaussians:
    """Gaussians [T, D] of texts, from the cache where it has them. Raises TrainingDataError."""
    if not texts:
        raise TrainingDataError("There are no texts to encode.")
    parts = []
    for some in _runs(len(texts), N_PER_FILE):
        chosen = [texts[row] for row in some]

        def encode(chosen: Sequence[str] = chosen, first: int = some.start) -> EncodedImages:
            batches = []
            for rows in _runs(len(chosen), N_TEXTS_PER_BATCH):
                progress(what, first + rows.start, len(texts))
                batches.append(encoder.encode_texts(chosen[rows.start : rows.stop]))
            return EncodedImages(np.arange(len(chosen)), Gaussians.concatenate(batches))

        parts.append(_cached(cache, encoder, chosen, encode).gaussians)
    progress(what, len(texts), len(texts))
    return Gaussians.concatenate(parts)


def encode_images(
    encoder: Encoder,
    ids: Sequence[str],
    image: Callable[[int], Image.Image],
    cache: Path | None = None,
    progress: Progress = silent,
    what: str = "images",
) -> EncodedImages:
    """Gaussians of the images that `image(row)` gives, from the cache where it has them.

    An image for which it raises TrainingDataError is skipped and listed. The cache knows images by
    their ids and by the pixels of a few, so that other images under the same ids are noticed as
    long as all were changed. Raises TrainingDataError when no image can be read.
    """
    parts: list[EncodedImages] = []
    for some in _runs(len(ids), N_PER_FILE):
        names = [ids[row] for row in some]
        if cache is not None:
            names += [_look(image, row) for row in {some[0], some[len(some) // 2], some[-1]}]

        def encode(some: range = some) -> EncodedImages:
            return _encode_run(encoder, ids, image, some, progress, what)

        parts.append(_cached(cache, encoder, names, encode))
    progress(what, len(ids), len(ids))
    skipped = [one for part in parts for one in part.skipped]
    read = [part for part in parts if len(part.rows)]
    if not read:
        reason = f" {skipped[0][1]}" if skipped else ""
        raise TrainingDataError(f"None of {len(ids)} images can be read.{reason}")
    return EncodedImages(
        np.concatenate([part.rows for part in read]),
        Gaussians.concatenate(part.gaussians for part in read),
        skipped,
    )


def _encode_run(
    encoder: Encoder,
    ids: Sequence[str],
    image: Callable[[int], Image.Image],
    run: range,
    progress: Progress,
    what: str,
) -> EncodedImages:
    kept: list[int] = []
    batches: list[Gaussians] = []
    skipped: list[tuple[str, str]] = []
    for batch in _runs(len(run), N_IMAGES_PER_BATCH):
        progress(what, run[batch.start], len(ids))
        pixels = []
        for row in run[batch.start : batch.stop]:
            try:
                pixels.append(image(row))
                kept.append(row)
            except TrainingDataError as error:
                skipped.append((ids[row], str(error)))
        if pixels:
            batches.append(encoder.encode_images(pixels))
    none = np.empty((0, encoder.dim), dtype=np.float32)
    gaussians = Gaussians.concatenate(batches) if batches else Gaussians(none, none)
    return EncodedImages(np.array(kept, dtype=np.int64), gaussians, skipped)


def _look(image: Callable[[int], Image.Image], row: int) -> str:
    """A few letters that another image would not have."""
    try:
        return f"{zlib.crc32(image(row).tobytes()):08x}"
    except TrainingDataError:
        return "unreadable"


def _cached(
    cache: Path | None,
    encoder: Encoder,
    names: Sequence[str],
    encode: Callable[[], EncodedImages],
) -> EncodedImages:
    """What `encode` gives, kept under the encoder's fingerprint and the names of its inputs."""
    if cache is None:
        return encode()
    key = zlib.crc32("\0".join(names).encode("utf-8", "surrogatepass"))
    file = cache / f"{encoder.fingerprint[:16]}-{len(names)}-{key:08x}.npz"
    if file.is_file():
        with np.load(file, allow_pickle=False) as kept:
            return EncodedImages(
                kept["rows"],
                Gaussians(kept["mean"], kept["log_variance"]),
                [(str(name), str(reason)) for name, reason in kept["skipped"]],
            )
    encoded = encode()
    _keep(encoded, file)
    return encoded


def _keep(encoded: EncodedImages, file: Path) -> None:
    unfinished = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as out:
            np.savez(
                out,
                rows=encoded.rows,
                mean=encoded.gaussians.mean,
                log_variance=encoded.gaussians.log_variance,
                skipped=np.array(encoded.skipped, dtype=np.str_).reshape(-1, 2),
            )
        unfinished.replace(file)
    except OSError as error:
        raise TrainingDataError(f"The cache {file.parent} cannot be written: {error}.") from error


def _runs(n: int, size: int) -> Iterable[range]:
    return (range(first, min(first + size, n)) for first in range(0, n, size))
