"""Images and texts as Gaussians, whatever the encoder, each encoded once and kept in a cache."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.datasets.skips import Skipped

Progress = Callable[[str, int, int], None]  # what, done, total

UNREADABLE = "unreadable image"
N_IMAGES_PER_BATCH = 32
N_TEXTS_PER_BATCH = 128
# The cache has a file for so many inputs: what an interruption costs at most.
N_PER_FILE = 2048


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Gaussians [M, D] of the images that could be read.

    rows [M]: which of the given images they are. skipped: all others, with the reason.
    """

    rows: npt.NDArray[np.int64]
    gaussians: Gaussians
    skipped: Sequence[Skipped] = ()


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """N images [N, D] and the T captions [T, D] that describe them.

    owners [T]: the row of the image that each caption was written for. caption_ids [T]: the data
    set's own numbers of the captions, where it has them. skipped: images that could not be used;
    their captions are left out with them.
    """

    name: str
    ids: Sequence[str]
    images: Gaussians
    captions: Sequence[str]
    texts: Gaussians
    owners: npt.NDArray[np.int64]
    caption_ids: npt.NDArray[np.int64] | None = None
    skipped: Sequence[Skipped] = ()


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def encode_captioned(
    data: CaptionedImages, encoder: Encoder, cache: Path | None = None, progress: Progress = silent
) -> EncodedPairs:
    """All images and captions of a data set.

    Raises TrainingDataError when no image can be read or none has a caption.
    """
    encoded = encode_images(
        encoder,
        data.ids,
        lambda row: data.image(row, min_side=encoder.image_size),
        cache,
        progress,
        f"images of {data.name}",
    )
    captions = [data.captions[row] for row in encoded.rows]
    texts = [text for some in captions for text in some]
    if not texts:
        raise TrainingDataError(f"{data.name} has no captions.")
    ids = None
    if data.caption_ids is not None:
        ids = np.array([i for row in encoded.rows for i in data.caption_ids[row]], dtype=np.int64)
    return EncodedPairs(
        name=data.name,
        ids=[data.ids[row] for row in encoded.rows],
        images=encoded.gaussians,
        captions=texts,
        texts=encode_texts(encoder, texts, cache, progress, f"captions of {data.name}"),
        owners=np.repeat(np.arange(len(captions)), [len(some) for some in captions]),
        caption_ids=ids,
        skipped=[*data.skipped, *encoded.skipped],
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
        reason = f" {skipped[0].detail}" if skipped else ""
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
    skipped: list[Skipped] = []
    for batch in _runs(len(run), N_IMAGES_PER_BATCH):
        progress(what, run[batch.start], len(ids))
        pixels = []
        for row in run[batch.start : batch.stop]:
            try:
                pixels.append(image(row))
                kept.append(row)
            except TrainingDataError as error:
                skipped.append(Skipped(ids[row], UNREADABLE, str(error)))
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
                [Skipped(str(name), UNREADABLE, str(why)) for name, why in kept["skipped"]],
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
                skipped=np.array(
                    [(one.key, one.detail) for one in encoded.skipped], dtype=np.str_
                ).reshape(-1, 2),
            )
        unfinished.replace(file)
    except OSError as error:
        raise TrainingDataError(f"The cache {file.parent} cannot be written: {error}.") from error


def _runs(n: int, size: int) -> Iterable[range]:
    return (range(first, min(first + size, n)) for first in range(0, n, size))
