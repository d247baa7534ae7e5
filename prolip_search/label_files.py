"""Files of labels that people have already: judgements as JSON lines, pairs as CSV, captions beside
photos. Every mistake is one line that names the file, the line and the fix."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from prolip_search.changes import relative_path
from prolip_search.descriptions import description_of
from prolip_search.errors import QueryError
from prolip_search.indexes.store import Store
from prolip_search.judging import Judgement, Label

LONGEST_CAPTION = 10_000  # characters; more is another kind of file
PAIR_COLUMNS = ("image", "caption")
JUDGEMENT_HELP = (
    'A line looks like {"query": "a dog", "image": "photos/dog.jpg", "match": true}; nothing was '
    "recorded."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One line of such a file. place: where it stands, for messages. image: as it was written."""

    place: str
    query: str
    image: str
    label: Label
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Judgements of items of the index, and in one sentence each what was left out and why."""

    judgements: list[Judgement]
    notes: list[str]


def read_judgements(path: Path) -> list[Labelled]:
    """Lines of {"query": …, "image": …, "match": true|false}. Raises QueryError."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise QueryError(f"{place} is not JSON ({error}). {JUDGEMENT_HELP}") from error
        found.append(judgement_of(content, place))
    return found


def judgement_of(content: object, place: str) -> Labelled:
    """One judgement as JSON has it. Raises QueryError."""
    if not isinstance(content, Mapping):
        raise QueryError(f"{place} is no JSON object. {JUDGEMENT_HELP}")
    for name in ("query", "image"):
        if not isinstance(content.get(name), str) or not content[name].strip():
            raise QueryError(f"{place} has no text {name!r}. {JUDGEMENT_HELP}")
    if not isinstance(content.get("match"), bool):
        raise QueryError(f"{place} has no 'match' that is true or false. {JUDGEMENT_HELP}")
    probability = content.get("judged_probability")
    if probability is not None and not _is_probability(probability):
        raise QueryError(f"{place}: judged_probability lies above 0 and up to 1.")
    return Labelled(
        place=place,
        query=content["query"],
        image=content["image"],
        label="match" if content["match"] else "no_match",
        probability=probability,
    )


def read_pairs(path: Path) -> list[Labelled]:
    """A CSV file with the columns `image` and `caption`, and perhaps others. Raises QueryError."""
    rows = csv.reader(_lines(path), strict=True)
    found = []
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in PAIR_COLUMNS if name not in header]
        if missing:
            raise QueryError(
                f"{path} has no column {' and no column '.join(map(repr, missing))}: its first "
                "line must name the columns, such as `image,caption`."
            )
        at = [header.index(name) for name in PAIR_COLUMNS]
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(at) or not all(row[i].strip() for i in at):
                raise QueryError(f"{place} lacks an image or a caption.")
            image, caption = (row[i].strip() for i in at)
            found.append(_pair(place, image, caption))
    except csv.Error as error:
        raise QueryError(f"{path}, line {rows.line_num} is not CSV: {error}.") from error
    return found


def labelled_judgements(
    judgements: str | Path | Iterable[Mapping[str, Any]] | None,
) -> list[Labelled]:
    """Of a file or of objects. Raises QueryError."""
    if judgements is None:
        return []
    if isinstance(judgements, str | Path):
        return read_judgements(Path(judgements))
    return [judgement_of(one, f"judgement {at}") for at, one in enumerate(judgements, start=1)]


def labelled_pairs(
    pairs: str | Path | Iterable[tuple[str | Path, str]] | None,
) -> list[Labelled]:
    """Of a file or of tuples (image, caption). Raises QueryError."""
    if pairs is None:
        return []
    if isinstance(pairs, str | Path):
        return read_pairs(Path(pairs))
    return [
        _pair(f"pair {at}", str(image), caption)
        for at, (image, caption) in enumerate(pairs, start=1)
    ]


def captions_beside(store: Store) -> Iterator[Labelled]:
    """What lies beside the photos of the index: photo.txt, or a description inside the photo.

    A text file counts only where it is small and not empty; its first line is the caption.
    """
    is_photo = (pc.field("kind") == "image") & pc.field("path").is_valid()
    for row in store.files().filter(is_photo).sort_by("path").to_pylist():
        photo = Path(os.path.normpath(store.root / row["path"]))
        caption = _caption_file(photo) or description_of(photo)
        if caption:
            yield _pair(str(photo), str(photo), caption)


def find_item(store: Store, image: str) -> str | None:
    """The id of the item that a path from here, a path of the index, or an id means; or None."""
    return _Finder(store).find(image)


class _Finder:
    def __init__(self, store: Store) -> None:
        table = store.table(["id", "path"])
        self._root = store.root
        self._ids = set(table["id"].to_pylist())
        paths = zip(table["path"].to_pylist(), table["id"].to_pylist(), strict=True)
        self._by_path = {path: id for path, id in paths if path is not None}

    def find(self, image: str) -> str | None:
        absolute = Path(os.path.realpath(Path(image).parent)) / Path(image).name
        found = self._by_path.get(relative_path(absolute, self._root)) or self._by_path.get(image)
        return found or (image if image in self._ids else None)


def resolve(store: Store, labelled: Sequence[Labelled]) -> Resolved:
    """Finds the items that labels are about: by path from here, by path in the index, or by id.

    Those that are not in the index are left out and told of. Raises QueryError when all are.
    """
    finder = _Finder(store)
    judgements, unknown = [], []
    for one in labelled:
        item = finder.find(one.image)
        if item is None:
            unknown.append(one)
            continue
        judgements.append(
            Judgement(
                query=one.query,
                item=item,
                label=one.label,
                source="pairs" if one.label == "target" else "judge",
                probability=one.probability,
            )
        )
    if not unknown:
        return Resolved(judgements, [])
    told = (
        f"{len(unknown):,} of {len(labelled):,} photos are not in the index, such as "
        f"{unknown[0].image} ({unknown[0].place})"
    )
    if not judgements:
        raise QueryError(
            f"{told}. Index them first, or write their paths as seen from here; nothing was "
            "recorded."
        )
    return Resolved(judgements, [f"{told}: they were left out, all others were recorded."])


def _pair(place: str, image: str, caption: str) -> Labelled:
    if len(caption) > LONGEST_CAPTION:
        raise QueryError(f"{place}: a caption of {len(caption):,} characters is none.")
    return Labelled(place=place, query=caption, image=image, label="target")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise QueryError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise QueryError(f"{path} cannot be read: {error.strerror}.") from error


def _is_probability(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0.0 < float(value) <= 1.0  # type: ignore[arg-type]


def _caption_file(photo: Path) -> str | None:
    beside = photo.with_suffix(".txt")
    try:
        if not beside.is_file() or beside.stat().st_size > 4 * LONGEST_CAPTION:
            return None
        lines = beside.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return lines[0].strip()[:LONGEST_CAPTION] if lines else None
