"""Images with captions, one row an image, whatever file they come from.

`open_captioned` reads a Parquet file or a folder of them (columns id, captions, image bytes), CSV,
TSV or JSON lines of paths and captions, COCO captions, and Karpathy's splits. Rows that cannot be
used are listed in `skipped`; where nothing can be used that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from prolip_search.errors import TrainingDataError, UnreadableImage
from prolip_search.files import read_file
from prolip_search.images import decode
from prolip_search.train.datasets.annotations import (
    CAPTION_NAMES,
    ID_NAMES,
    Entry,
    guess,
    read_annotations,
    texts_of,
)
from prolip_search.train.datasets.skips import Skipped

__all__ = ["CaptionedImages", "ImageBytes", "open_captioned"]

IMAGE_NAMES = ("image", "image_bytes", "jpg", "bytes", "png", "webp")
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
WHOLE = 1 << 24  # no JPEG has so long a side: decoded at its full size


class ImageBytes(Protocol):
    """Where the encoded images are; read by row, from any thread."""

    def __getitem__(self, row: int) -> bytes:
        """The bytes of a row. Raises UnreadableImage where there are none."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class CaptionedImages:
    """N images, each with at least one caption.

    name: of the source, for messages. caption_ids: the data set's own numbers of the captions,
    where it has them (COCO). skipped: rows of the source that are not among the N.
    """

    name: str
    ids: list[str]
    captions: list[list[str]]
    images: ImageBytes
    caption_ids: list[list[int]] | None = None
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, row: int, *, min_side: int | None = None) -> Image.Image:
        """The image of a row, upright RGB.

        With `min_side` a large JPEG is decoded at a fraction of its size, both sides at least twice
        that long. Raises TrainingDataError naming the sample when its bytes are no image.
        """
        try:
            data = self.images[row]
            path = Path(self.ids[row])
            return decode(data, path, min_side=WHOLE if min_side is None else min_side).pixels
        except UnreadableImage as error:
            raise TrainingDataError(
                f"The image of row {row} ({self.ids[row]}) of {self.name} cannot be decoded: "
                f"{error}. Take the row out of the file."
            ) from error


def open_captioned(
    path: Path,
    *,
    split: str | None = None,
    images: Path | None = None,
    image_key: str | None = None,
    caption_key: str | None = None,
    restval: bool = True,
) -> CaptionedImages:
    """The captioned images of a file, or of the file of `split` in a folder.

    images: the folder that paths start from, else the folder of the file. image_key, caption_key:
    column names, where they cannot be guessed. restval: Karpathy's "restval" images join train, as
    is the custom. Raises TrainingDataError: no such file, wrong content, no image found at all.
    """
    file = _find(path, split)
    if file.suffix == ".parquet":
        wanted = split if path.is_file() else None  # a folder's file is named by its split
        return _open_parquet(file, wanted, image_key, caption_key)
    entries, skips = read_annotations(
        file,
        split=split if path.is_file() else None,
        image_key=image_key,
        caption_key=caption_key,
        restval=restval,
    )
    return _match(file, entries, skips, images if images is not None else file.parent)


def _find(path: Path, split: str | None) -> Path:
    """The file that is meant."""
    if path.is_dir():
        names = [f"{split}{suffix}" for suffix in SUFFIXES] if split else []
        found = [path / name for name in names if (path / name).is_file()]
        if not found and split is None:
            found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(found) == 1:
            return found[0]
        if not found:
            raise TrainingDataError(
                f"There is no {path / (split or 'train')}.parquet, nor a .csv, .tsv, .jsonl or "
                ".json of that name. Name the file itself, or the folder and a split that it holds."
            )
        listed = ", ".join(file.name for file in found[:5])
        raise TrainingDataError(
            f"{path} holds several data files ({listed}); name one, or a split."
        )
    if not path.is_file():
        raise TrainingDataError(f"There is no {path}; check the path of the data.")
    if path.suffix not in SUFFIXES:
        raise TrainingDataError(
            f"{path} is no data file of a known kind; those end in {', '.join(SUFFIXES)}."
        )
    return path


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images that are files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> bytes:
        return read_file(self.paths[row])


def _match(
    file: Path, entries: Sequence[Entry], skips: list[Skipped], root: Path
) -> CaptionedImages:
    """The entries whose image file is there; the others are skipped, unless that is all of them."""
    if not root.is_dir():
        raise TrainingDataError(f"There is no folder {root} of the images of {file}.")
    found, paths = [], []
    for entry in entries:
        # Karpathy's COCO names the folder too, which not every copy of the photos has.
        candidates = (root / entry.path, root / Path(entry.path).name)
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            skips.append(Skipped(entry.path, "missing image", f"not in {root}"))
        else:
            found.append(entry)
            paths.append(path)
    if not found:
        if not entries:
            raise TrainingDataError(f"{file} has no rows with a caption ({len(skips)} skipped).")
        raise TrainingDataError(
            f"None of the {len(entries):,} images that {file} names is in {root} (the first: "
            f"{entries[0].path}). Give the folder that its paths start from as images."
        )
    with_ids = all(len(entry.caption_ids) == len(entry.captions) for entry in found)
    return CaptionedImages(
        name=file.name,
        ids=[entry.id for entry in found],
        captions=[entry.captions for entry in found],
        images=ImageFiles(paths),
        caption_ids=[entry.caption_ids for entry in found] if with_ids else None,
        skipped=tuple(skips),
    )


@dataclass(frozen=True, eq=False)
class ImageColumn:
    """Images that are the cells of a table in memory."""

    cells: pa.ChunkedArray  # binary, N

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> bytes:
        data = self.cells[row].as_py()
        return data if isinstance(data, bytes) else b""


def _open_parquet(
    path: Path, split: str | None, image_key: str | None, caption_key: str | None
) -> CaptionedImages:
    try:
        schema = pq.read_schema(path)
        names = schema.names
        image = image_key or guess(names, IMAGE_NAMES)
        caption = caption_key or guess(names, CAPTION_NAMES)
        wanted = ((caption_key or "captions", caption), (image_key or "image", image))
        missing = [what for what, column in wanted if column not in names]
        if missing:
            raise TrainingDataError(
                f"{path} has no column {', '.join(missing)} (it has {', '.join(names)}). "
                "It needs captions (a text or a list of texts) and the bytes of an image."
            )
        ids, splits = guess(names, ID_NAMES), guess(names, ("split",)) if split else None
        if split is not None and splits is None:
            raise TrainingDataError(f"{path} has no column split; leave the split out.")
        columns = [column for column in (ids, caption, image, splits) if column is not None]
        table = pq.read_table(path, columns=columns)
        if splits is not None:
            table = table.filter(pc.equal(table[splits].cast(pa.string()), split))
        cells = _cells(path, table[image])
    except (pa.ArrowException, OSError) as error:
        raise TrainingDataError(f"{path} is not a readable Parquet file: {error}.") from error
    if not len(table):
        raise TrainingDataError(
            f"{path} has no rows{f' of split {split}' if split else ''}; "
            "training needs captioned images."
        )
    keys = [str(i) for i in table[ids].to_pylist()] if ids else [str(i) for i in range(len(table))]
    return _captioned_rows(path, keys, table[caption].to_pylist(), cells)


def _cells(path: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes: the column itself, or the field `bytes` of a struct."""
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
        kind = column.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise TrainingDataError(
            f"The images of {path} are {kind}, not bytes. Put the content of the image files there."
        )
    return column


def _captioned_rows(
    path: Path, keys: list[str], cells: list[Any], images: pa.ChunkedArray
) -> CaptionedImages:
    captions = [texts_of(cell) for cell in cells]
    rows = [row for row, texts in enumerate(captions) if texts]
    if not rows:
        raise TrainingDataError(
            f"Row 0 of {path} has no list of captions (found {cells[0]!r}), and no other has: each "
            "image needs at least one text."
        )
    if len(rows) < len(keys):
        images = images.take(pa.array(rows))
    return CaptionedImages(
        name=path.name,
        ids=[keys[row] for row in rows],
        captions=[captions[row] for row in rows],
        images=ImageColumn(images),
        skipped=tuple(
            Skipped(key, "no caption", path.name)
            for key, texts in zip(keys, captions, strict=True)
            if not texts
        ),
    )
