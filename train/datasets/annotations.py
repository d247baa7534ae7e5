"""Files that say which image has which captions: CSV and TSV, JSON lines, COCO, Karpathy.

Each reader gives entries in the order of the file; whether the images are there is the caller's
question. Lines that are no entry come back as skips.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prolip_search.errors import TrainingDataError
from prolip_search.train.datasets.skips import Skipped

__all__ = ["CAPTION_NAMES", "ID_NAMES", "Entry", "read_annotations", "texts_of"]

PATH_NAMES = ("path", "image", "filepath", "file_path", "image_path", "file_name", "filename")
CAPTION_NAMES = ("captions", "caption", "title", "text", "texts", "sentences", "comment")
ID_NAMES = ("id", "key", "image_id", "__key__")
LONGEST_CAPTION = 20_000  # characters; no tower reads as many, and cleaning them takes time
LONGEST_FIELD = 10_000_000  # characters of one CSV field
DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass
class Entry:
    """An image, by the path written in the file, and its captions with their ids if it has any."""

    id: str
    path: str
    captions: list[str]
    caption_ids: list[int] = field(default_factory=list)


Read = tuple[list[Entry], list[Skipped]]


def read_annotations(
    path: Path, *, split: str | None, image_key: str | None, caption_key: str | None, restval: bool
) -> Read:
    """The entries of a CSV, TSV, JSONL, COCO or Karpathy file, and the lines that are none.

    Raises TrainingDataError for a file that cannot be read or lacks the columns.
    """
    try:
        if path.suffix in DELIMITERS:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                csv.field_size_limit(LONGEST_FIELD)
                rows = csv.DictReader(lines, delimiter=DELIMITERS[path.suffix])
                names = rows.fieldnames or []
                keys = _keys(path, names, image_key, caption_key)
                return _merge(path, _numbered(rows), keys, split)
        if path.suffix in (".jsonl", ".ndjson"):
            with path.open(encoding="utf-8") as lines:
                return _json_lines(path, lines, image_key, caption_key, split)
        return _json_document(path, split, restval)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingDataError(f"{path} is not readable UTF-8 text: {error}.") from error
    except OSError as error:
        raise TrainingDataError(f"{path} cannot be read: {error}.") from error


def texts_of(value: object) -> list[str]:
    """The captions in a cell: one text, or a list of texts or of Karpathy's sentences.

    What is no text with a visible letter is left out; halves of characters, which JSON can hold and
    no tokenizer takes, become question marks.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return []
    texts = [item.get("raw") if isinstance(item, Mapping) else item for item in value]
    return [
        text[:LONGEST_CAPTION].encode("utf-8", "replace").decode("utf-8")
        for text in texts
        if isinstance(text, str) and text.strip()
    ]


def guess(names: Iterable[str], known: tuple[str, ...]) -> str | None:
    """The first of the known names that is there, whatever its case."""
    there = {name.lower(): name for name in reversed(list(names)) if isinstance(name, str)}
    return next((there[name] for name in known if name in there), None)


@dataclass(frozen=True)
class _Keys:
    image: str
    captions: str
    id: str | None
    split: str | None


def _keys(
    path: Path, names: Iterable[str], image_key: str | None, caption_key: str | None
) -> _Keys:
    names = list(names)
    image = image_key or guess(names, PATH_NAMES)
    captions = caption_key or guess(names, CAPTION_NAMES)
    if image not in names or captions not in names:
        missing = [
            what
            for what, key in (
                (image_key or "with the image's path (path, image or filepath)", image),
                (caption_key or "with its caption (caption, captions, title or text)", captions),
            )
            if key not in names
        ]
        raise TrainingDataError(
            f"{path} has no column {' and none '.join(missing)}; it has {', '.join(names)}. "
            "Name the columns with image_key and caption_key."
        )
    split_name, id_name = guess(names, ("split",)), guess(names, ID_NAMES)
    return _Keys(str(image), str(captions), id_name, split_name)


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    return ((number, row) for number, row in enumerate(rows, start=2))


def _json_lines(
    path: Path,
    lines: Iterable[str],
    image_key: str | None,
    caption_key: str | None,
    split: str | None,
) -> Read:
    rows: list[tuple[int, Mapping[str, Any] | str]] = []
    keys = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            rows.append((number, f"no JSON: {error}"))
            continue
        if not isinstance(row, dict):
            rows.append((number, "no JSON object"))
            continue
        keys = keys or _keys(path, row, image_key, caption_key)
        rows.append((number, row))
    if keys is None:
        raise TrainingDataError(f"{path} holds no JSON object; give one a line.")
    return _merge(path, rows, keys, split)


def _merge(
    path: Path,
    rows: Iterable[tuple[int, Mapping[str, Any] | str]],
    keys: _Keys,
    split: str | None,
) -> Read:
    """Lines of the same image become one entry with all their captions."""
    entries: dict[str, Entry] = {}
    skips = []
    if split is not None and keys.split is None:
        raise TrainingDataError(
            f"{path} has no column split, so it has no split {split!r}; leave the split out."
        )
    for number, row in rows:
        if isinstance(row, str):
            skips.append(Skipped(f"{path.name}:{number}", "damaged line", row))
            continue
        if keys.split is not None and split is not None and row.get(keys.split) != split:
            continue
        image, captions = row.get(keys.image), texts_of(row.get(keys.captions))
        if not isinstance(image, str) or not image:
            skips.append(Skipped(f"{path.name}:{number}", "no image path"))
        elif not captions:
            skips.append(Skipped(image, "no caption", f"{path.name}:{number}"))
        elif image in entries:
            entries[image].captions += captions
        else:
            given = row.get(keys.id) if keys.id is not None else None
            entries[image] = Entry(
                str(given) if given not in (None, "") else image, image, captions
            )
    return list(entries.values()), skips


def _json_document(path: Path, split: str | None, restval: bool) -> Read:
    try:
        document = json.loads(path.read_bytes())
    except (json.JSONDecodeError, RecursionError) as error:
        raise TrainingDataError(f"{path} is not JSON: {error}.") from error
    images = document.get("images") if isinstance(document, dict) else None
    try:
        if isinstance(images, list) and isinstance(document.get("annotations"), list):
            return _coco(images, document["annotations"])
        if isinstance(images, list) and images and "sentences" in images[0]:
            return _karpathy(path, images, split, restval)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingDataError(f"{path} has an entry without {error}; is it complete?") from error
    raise TrainingDataError(
        f"{path} is neither COCO captions (images and annotations) nor a Karpathy split "
        "(images with sentences)."
    )


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Read:
    """COCO has one file per split, so the split is not asked for."""
    entries = {image["id"]: Entry(str(image["id"]), image["file_name"], []) for image in images}
    skips = []
    for annotation in annotations:
        entry = entries.get(annotation["image_id"])
        captions = texts_of(annotation.get("caption"))
        if entry is None:
            key = str(annotation["image_id"])
            skips.append(
                Skipped(key, "caption of an unlisted image", f"caption {annotation['id']}")
            )
        else:
            entry.captions += captions
            entry.caption_ids += [annotation["id"]] * len(captions)
    skips += [Skipped(e.path, "no caption") for e in entries.values() if not e.captions]
    return [entry for entry in entries.values() if entry.captions], skips


def _karpathy(path: Path, images: list[dict[str, Any]], split: str | None, restval: bool) -> Read:
    wanted = {split, "restval"} if split == "train" and restval else {split}
    entries, skips = [], []
    for image in images:
        if split is not None and image["split"] not in wanted:
            continue
        name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
        sentences = [s for s in image["sentences"] if texts_of(s.get("raw"))]
        if not sentences:
            skips.append(Skipped(name, "no caption"))
            continue
        own_id = str(image.get("cocoid", image["filename"]))
        ids = [s["sentid"] for s in sentences if "sentid" in s]
        entries.append(Entry(own_id, name, texts_of(sentences), ids))
    if not entries and not skips:
        found = ", ".join(sorted({str(image.get("split")) for image in images}))
        raise TrainingDataError(f"{path} has no split {split!r}; it has {found}.")
    return entries, skips
