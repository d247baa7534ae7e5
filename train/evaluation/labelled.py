"""Images with one class each: a folder for every class, or a Parquet file with a label column."""

from __future__ import annotations

import json
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
from prolip_search.images import decode, read_image
from prolip_search.train.datasets.skips import Skipped
from prolip_search.train.evaluation.encoding import Progress, encode_images, silent
from prolip_search.train.evaluation.prompts import read_lines

__all__ = ["Labelled", "LabelledImages", "encode_labelled", "open_labelled"]

LABEL_NAMES = ("label", "class", "fine_label", "labels", "target")
IMAGE_NAMES = ("image", "img", "image_bytes", "bytes")
IMAGENET = "imagenet"


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images of C classes. labels [N]: rows of `classes`, the names that go into prompts.

    `image(row)` gives RGB pixels, and raises TrainingDataError where there are none.
    """

    name: str
    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    classes: Sequence[str]
    image: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Labelled:
    """N encoded images [N, D] with their classes [N]."""

    images: Gaussians
    labels: npt.NDArray[np.int64]
    skipped: Sequence[Skipped] = ()


def open_labelled(path: Path, *, classes: str | None = None, min_side: int = 1) -> LabelledImages:
    """The images of a folder of class folders, or of a Parquet file.

    classes: where the names come from: a text file with a name a line, in the order of the sorted
    folders or of the numbers in the label column; a .json file of {folder or label: name}; or
    "imagenet". Without it they are the folders' own (`_` is a space), the labels where these are
    texts, or what the file says of itself. min_side: large JPEGs may be decoded down to twice that.

    Raises TrainingDataError: no such data, a class without an image, another number of names.
    """
    if path.is_dir():
        return _folder(path, classes, min_side)
    if path.is_file():
        return _parquet(path, classes, min_side)
    raise TrainingDataError(f"There is no {path}; name a folder of class folders or a .parquet.")


def encode_labelled(
    data: LabelledImages, encoder: Encoder, cache: Path | None = None, progress: Progress = silent
) -> Labelled:
    """The images that can be read; the others are listed. Raises TrainingDataError for none."""
    found = encode_images(encoder, data.ids, data.image, cache, progress, f"images of {data.name}")
    return Labelled(found.gaussians, data.labels[found.rows], found.skipped)


def _folder(folder: Path, classes: str | None, min_side: int) -> LabelledImages:
    found = sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
    if not found:
        raise TrainingDataError(f"{folder} has no folders; each class needs one, with its images.")
    files: list[Path] = []
    labels: list[int] = []
    for label, one in enumerate(found):
        own = sorted(
            file
            for file in one.rglob("*")
            if file.suffix.lower() in CANDIDATE_SUFFIXES and file.is_file()
        )
        if not own:
            raise TrainingDataError(
                f"The class folder {one} holds no image; put some there or remove it."
            )
        files += own
        labels += [label] * len(own)

    def image(row: int) -> Image.Image:
        try:
            return read_image(files[row], min_side=min_side).pixels
        except UnreadableImage as error:
            raise TrainingDataError(str(error)) from error

    keys = [one.name for one in found]
    return LabelledImages(
        name=folder.name,
        ids=[file.relative_to(folder).as_posix() for file in files],
        labels=np.array(labels, dtype=np.int64),
        classes=_names(keys, classes, [key.replace("_", " ") for key in keys]),
        image=image,
    )


def _parquet(file: Path, classes: str | None, min_side: int) -> LabelledImages:
    try:
        schema = pq.read_schema(file)
        columns = {
            "label": _column(schema.names, LABEL_NAMES, file),
            "image": _column(schema.names, IMAGE_NAMES, file),
        }
        names = [*columns.values(), *(["id"] if "id" in schema.names else [])]
        table = pq.read_table(file, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise TrainingDataError(f"{file} is not a readable Parquet file: {error}.") from error
    values = table[columns["label"]].to_pylist()
    if not values:
        raise TrainingDataError(f"There are no images in {file}.")
    if any(value is None for value in values):
        raise TrainingDataError(f"{file} has rows without a label: {values.count(None):,}.")
    labels, found = _labels(values, file, classes, _names_in(schema, columns["label"]))
    pictures = table[columns["image"]]
    ids = table["id"].to_pylist() if "id" in names else range(len(values))

    def image(row: int) -> Image.Image:
        content = pictures[row].as_py()
        if isinstance(content, dict):  # how the `datasets` library keeps an image
            content = content.get("bytes")
        try:
            return decode(content or b"", file / str(ids[row]), min_side=min_side).pixels
        except UnreadableImage as error:
            raise TrainingDataError(str(error)) from error

    return LabelledImages(file.stem, [str(one) for one in ids], labels, found, image)


def _labels(
    values: list[Any], file: Path, classes: str | None, own_names: list[str] | None
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Labels [N] and the names of the classes, from texts or from numbers."""
    if all(isinstance(value, str) for value in values):
        keys = sorted(set(values))
        place = {key: row for row, key in enumerate(keys)}
        labels = np.array([place[value] for value in values], dtype=np.int64)
        return labels, _names(keys, classes, [key.replace("_", " ") for key in keys])
    if not all(isinstance(value, int) for value in values) or min(values) < 0:
        raise TrainingDataError(f"The labels of {file} are neither texts nor numbers from 0 on.")
    if classes is None and own_names is None:
        raise TrainingDataError(
            f"The labels of {file} are numbers; name the classes with --classes FILE, a name a "
            "line in the order of the numbers."
        )
    n_classes = max(values) + 1
    if classes is None and own_names is not None:
        n_classes = max(n_classes, len(own_names))
        classes_of_numbers = _checked(own_names, n_classes, str(file))
    else:
        classes_of_numbers = _names([str(number) for number in range(n_classes)], classes, [])
    return np.array(values, dtype=np.int64), classes_of_numbers


def _names(keys: list[str], source: str | None, own: list[str]) -> list[str]:
    """A name for every key (a folder, a label), from `source` where there is one."""
    if source is None:
        return own
    if source == IMAGENET:
        # It imports torchvision, which other classes do without.
        from prolip_search.train.evaluation.imagenet import imagenet_names

        return _checked(imagenet_names(), len(keys), "ImageNet")
    file = Path(source)
    if file.suffix != ".json":
        return _checked([line for _, line in read_lines(file)], len(keys), str(file))
    try:
        named = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataError(f"{file} cannot be read: {error}.") from error
    missing = [key for key in keys if not isinstance(named, dict) or key not in named]
    if missing:
        raise TrainingDataError(f"{file} has no name for the class {missing[0]}.")
    return [str(named[key]) for key in keys]


def _checked(names: list[str], n_classes: int, source: str) -> list[str]:
    if len(names) != n_classes:
        raise TrainingDataError(
            f"{source} names {len(names):,} classes, but the data has {n_classes:,}."
        )
    return names


def _column(names: list[str], known: tuple[str, ...], file: Path) -> str:
    found = [name for name in known if name in names]
    if not found:
        raise TrainingDataError(
            f"{file} has none of the columns {', '.join(known)}; it has {', '.join(names)}."
        )
    return found[0]


def _names_in(schema: pa.Schema, column: str) -> list[str] | None:
    """The class names that the `datasets` library writes beside numbers."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        names = described["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None
