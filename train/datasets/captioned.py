"""Images with captions, one row an image, whatever file they come from.

`open_captioned` reads a Parquet file or a folder of them (columns id, captions, image bytes), CSV,
TSV or JSON lines of paths and captions, COCO captions, and Karpathy's splits. Rows that cannot be
used are listed in `skipped`; where nothing can be used that is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from prolip_search.errors import TrainingDataError, UnreadableImage
from prolip_search.files import read_file
from prolip_search.images import decode
from prolip_search.train.datasets.annotations import Entry, read_annotations
from prolip_search.train.datasets.parquet import read_parquet
from prolip_search.train.datasets.skips import Skipped

__all__ = ["SUFFIXES", "CaptionedImages", "ImageBytes", "open_captioned"]

PART = re.compile(r"-\d+(-of-\d+)?$")
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
    files = _find(path, split)
    wanted = split if path.is_file() else None  # a folder's file is named by its split
    file = files[0]
    if file.suffix == ".parquet":
        rows = read_parquet(files, split=wanted, image_key=image_key, caption_key=caption_key)
        name = file.name if len(files) == 1 else f"{path.name}, {len(files)} Parquet files"
        return CaptionedImages(name, rows.ids, rows.captions, rows.images, skipped=rows.skipped)
    entries, skips = read_annotations(
        file,
        split=wanted,
        image_key=image_key,
        caption_key=caption_key,
        restval=restval,
    )
    return _match(file, entries, skips, images if images is not None else file.parent)


def _find(path: Path, split: str | None) -> list[Path]:
    """The file that is meant; of Parquet there may be several that belong together."""
    if path.is_dir():
        found = _in_folder(path, split)
        if len(found) == 1 or (found and all(_is_part(file) for file in found)):
            return found
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
    return [path]


def _in_folder(folder: Path, split: str | None) -> list[Path]:
    if split is None:
        return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    names = [folder / f"{split}{suffix}" for suffix in SUFFIXES]
    return [file for file in names if file.is_file()] or sorted(folder.glob(f"{split}-*.parquet"))


def _is_part(file: Path) -> bool:
    """Whether a name is one of many: `train-00003-of-00010.parquet`."""
    return file.suffix == ".parquet" and PART.search(file.stem) is not None


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
