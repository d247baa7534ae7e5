"""What people said of texts and photos, read from files, and how photos are split in two.

A calibration is fitted on one half of the photos and measured on the other. A pair is kept only
when its photo and the photo that its text was written for lie in the same half, so nothing that a
figure is taken from was seen in fitting.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prolip_search.errors import TrainingDataError

CSV_COLUMNS = ("image_id", "caption_image_id", "caption_index", "yes", "no")
JSONL_FIELDS = ("query", "image", "match")


@dataclass(frozen=True, eq=False)
class Judgements:
    """n yes-or-no answers about Q texts and M images, each pair once.

    queries [Q]; owners [Q]: the image that a text was written for, None where that is unknown.
    images [M]: ids. query [n], image [n]: the rows of a pair; is_match [n]: the majority's answer.
    n_ties: pairs that were left out because as many said yes as no.
    """

    queries: Sequence[str]
    owners: Sequence[str | None]
    images: Sequence[str]
    query: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    is_match: npt.NDArray[np.bool_]
    n_ties: int = 0

    def __len__(self) -> int:
        return len(self.is_match)

    def half(self, half: int) -> Judgements:
        """The pairs of which both photos (or the text, where its photo is unknown) are in it."""
        of_query = np.array(
            [
                photo_half(text if owner is None else owner) == half
                for text, owner in zip(self.queries, self.owners, strict=True)
            ],
            dtype=bool,
        )
        of_image = np.array([photo_half(name) == half for name in self.images], dtype=bool)
        return self._only(of_query[self.query] & of_image[self.image])

    def _only(self, chosen: npt.NDArray[np.bool_]) -> Judgements:
        query, query_row = np.unique(self.query[chosen], return_inverse=True)
        image, image_row = np.unique(self.image[chosen], return_inverse=True)
        return Judgements(
            [self.queries[row] for row in query],
            [self.owners[row] for row in query],
            [self.images[row] for row in image],
            query_row,
            image_row,
            self.is_match[chosen],
        )


def photo_half(name: str) -> int:
    """0 or 1: which half a photo is in, by its id alone. Half 0 is for fitting, 1 for figures."""
    return hashlib.sha256(name.encode()).digest()[0] & 1


def read_judgements(
    file: Path, captions: Mapping[str, Sequence[str]], photos: Sequence[str]
) -> Judgements:
    """The answers of a file, the majority's where several people were asked; ties are left out.

    A .csv has the columns image_id, caption_image_id, caption_index, yes, no (counts of votes), and
    its texts are `captions[caption_image_id][caption_index]`. Any other file holds one JSON object
    a line: query, image, match (true or false). photos: the ids that an image may have.
    Raises TrainingDataError, naming file and line, for anything that cannot be understood.
    """
    known = set(photos)
    votes: dict[tuple[str, str | None, str], list[int]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            read = _csv_rows(file, lines, captions) if file.suffix == ".csv" else _json_rows(lines)
            for line, (text, owner, image, yes, no) in read:
                if image not in known:
                    raise _bad(file, line, f"there is no photo {image!r} in the data folder")
                vote = votes.setdefault((text, owner, image), [0, 0])
                vote[0] += yes
                vote[1] += no
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingDataError(f"{file} cannot be read: {error}.") from error
    except _Unclear as unclear:
        raise _bad(file, unclear.line, str(unclear)) from unclear
    clear = {pair: yes > no for pair, (yes, no) in votes.items() if yes != no}
    if not clear:
        raise TrainingDataError(f"{file} holds no judgement that a majority agrees on.")
    queries = list(dict.fromkeys((text, owner) for text, owner, _ in clear))
    images = list(dict.fromkeys(image for _, _, image in clear))
    query_row = {query: row for row, query in enumerate(queries)}
    image_row = {image: row for row, image in enumerate(images)}
    return Judgements(
        [text for text, _ in queries],
        [owner for _, owner in queries],
        images,
        np.array([query_row[text, owner] for text, owner, _ in clear]),
        np.array([image_row[image] for _, _, image in clear]),
        np.array(list(clear.values()), dtype=bool),
        n_ties=len(votes) - len(clear),
    )


_Row = tuple[str, str | None, str, int, int]  # text, its photo, image, yes, no


class _Unclear(ValueError):
    """A line that says nothing."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def _csv_rows(
    file: Path, lines: Iterator[str], captions: Mapping[str, Sequence[str]]
) -> Iterator[tuple[int, _Row]]:
    rows = csv.DictReader(lines)
    missing = [name for name in CSV_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise TrainingDataError(
            f"{file} has no column {', '.join(missing)}; its first line must name the columns "
            f"{', '.join(CSV_COLUMNS)}."
        )
    for row in rows:
        owner = row["caption_image_id"]
        try:
            yes, no, index = int(row["yes"]), int(row["no"]), int(row["caption_index"])
        except (TypeError, ValueError):
            raise _Unclear(rows.line_num, "yes, no and caption_index must be numbers") from None
        if yes < 0 or no < 0:
            raise _Unclear(rows.line_num, "there are fewer than 0 votes")
        texts = captions.get(owner, ())
        if not 0 <= index < len(texts):
            raise _Unclear(rows.line_num, f"there is no caption {index} of {owner!r} in the data")
        yield rows.line_num, (texts[index], owner, row["image_id"], yes, no)


def _json_rows(lines: Iterator[str]) -> Iterator[tuple[int, _Row]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _Unclear(number, "this is no JSON") from None
        if not isinstance(row, dict) or any(name not in row for name in JSONL_FIELDS):
            raise _Unclear(number, f"a judgement is an object with {', '.join(JSONL_FIELDS)}")
        query, image, match = (row[name] for name in JSONL_FIELDS)
        if not isinstance(query, str) or not isinstance(image, str) or not query.strip():
            raise _Unclear(number, "query and image must be texts")
        if not isinstance(match, bool):
            raise _Unclear(number, "match must be true or false")
        yield number, (query, None, image, int(match), int(not match))


def _bad(file: Path, line: int, why: str) -> TrainingDataError:
    return TrainingDataError(f"Line {line} of {file}: {why}.")
