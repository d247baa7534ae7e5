"""Captions and image bytes from the columns of Parquet files."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prolip_search.errors import TrainingDataError, UnreadableImage
from prolip_search.train.datasets.annotations import CAPTION_NAMES, ID_NAMES, guess, texts_of
from prolip_search.train.datasets.skips import Skipped

__all__ = ["ImageColumn", "ParquetRows", "RowGroups", "read_parquet"]

IMAGE_NAMES = ("image", "image_bytes", "jpg", "bytes", "png", "webp")
# More than this stays on disk, and only as much of it is held at a time.
MOST_BYTES_HELD = 16 * 2**30


@dataclass(frozen=True, eq=False)
class ImageColumn:
    """Images that are the cells of a table in memory."""

    cells: pa.ChunkedArray  # binary, N

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> bytes:
        data = self.cells[row].as_py()
        return data if isinstance(data, bytes) else b""


class RowGroups:
    """Images on disk, read a row group at a time; the groups that were used last are held.

    That serves reading in order. Training draws rows in no order, and reads a whole group for each
    where not all are held: write shards from such a file (`writing.write_shards`).
    """

    def __init__(self, paths: Sequence[Path], column: str, rows: Sequence[int]) -> None:
        self._paths, self._column = list(paths), column
        self._rows = np.asarray(rows, np.int64)
        self._groups: list[tuple[int, int]] = []  # number of the file, of the group in it
        lengths = []
        for number, path in enumerate(paths):
            footer = pq.read_metadata(path)
            self._groups += [(number, group) for group in range(footer.num_row_groups)]
            lengths += [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        self._ends = np.cumsum(lengths)
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._n_bytes_held = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> bytes:
        place = int(self._rows[row])
        group = int(np.searchsorted(self._ends, place, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return ImageColumn(self._cells(group))[place - first]

    def _cells(self, group: int) -> pa.ChunkedArray:
        with self._lock:  # two threads that want the same group read it once
            cells = self._held.get(group)
            if cells is None:
                cells = self._read(group)
                self._held[group] = cells
                self._n_bytes_held += cells.nbytes
            self._held.move_to_end(group)
            while self._n_bytes_held > MOST_BYTES_HELD and len(self._held) > 1:
                _, oldest = self._held.popitem(last=False)
                self._n_bytes_held -= oldest.nbytes
            return cells

    def _read(self, group: int) -> pa.ChunkedArray:
        number, within = self._groups[group]
        path = self._paths[number]
        try:
            with pq.ParquetFile(path) as file:
                return _bytes_of(path, file.read_row_group(within, [self._column])[self._column])
        except (pa.ArrowException, OSError) as error:
            raise UnreadableImage(path, "damaged", str(error)) from error


@dataclass(frozen=True, eq=False)
class ParquetRows:
    """N rows with captions, and those without."""

    ids: list[str]
    captions: list[list[str]]
    images: ImageColumn | RowGroups
    skipped: tuple[Skipped, ...]


def read_parquet(
    paths: Sequence[Path], *, split: str | None, image_key: str | None, caption_key: str | None
) -> ParquetRows:
    """The rows of files with the same columns. Raises TrainingDataError."""
    tables, columns = [], None
    n_bytes = 0
    for path in paths:
        try:
            columns = _columns(path, image_key, caption_key)
            if split is not None and columns.split is None:
                raise TrainingDataError(f"{path} has no column split; leave the split out.")
            tables.append(_captions(path, columns))
            n_bytes += _n_bytes(path)
        except (pa.ArrowException, OSError) as error:
            raise TrainingDataError(f"{path} is not a readable Parquet file: {error}.") from error
    assert columns is not None
    texts = list(itertools.chain.from_iterable(table["captions"].to_pylist() for table in tables))
    ids = list(itertools.chain.from_iterable(table["id"].to_pylist() for table in tables))
    splits = list(itertools.chain.from_iterable(table["split"].to_pylist() for table in tables))
    rows = [row for row, own in enumerate(splits) if split is None or own == split]
    if not rows:
        raise TrainingDataError(
            f"{paths[0]} has no rows{f' of split {split}' if split else ''}; "
            "training needs captioned images."
        )
    captions = {row: texts_of(texts[row]) for row in rows}
    good = [row for row in rows if captions[row]]
    if not good:
        raise TrainingDataError(
            f"Row {rows[0]} of {paths[0]} has no list of captions (found {texts[rows[0]]!r}), and "
            "no other has: each image needs at least one text."
        )
    return ParquetRows(
        ids=[str(ids[row]) for row in good],
        captions=[captions[row] for row in good],
        images=_images(paths, columns.image, good, n_bytes),
        skipped=tuple(
            Skipped(str(ids[row]), "no caption", paths[0].name) for row in rows if not captions[row]
        ),
    )


@dataclass(frozen=True)
class _Columns:
    image: str
    captions: str
    id: str | None
    split: str | None


def _columns(path: Path, image_key: str | None, caption_key: str | None) -> _Columns:
    names = pq.read_schema(path).names
    image = image_key or guess(names, IMAGE_NAMES)
    captions = caption_key or guess(names, CAPTION_NAMES)
    wanted = ((caption_key or "captions", captions), (image_key or "image", image))
    missing = [what for what, column in wanted if column not in names]
    if missing:
        raise TrainingDataError(
            f"{path} has no column {', '.join(missing)} (it has {', '.join(names)}). "
            "It needs captions (a text or a list of texts) and the bytes of an image."
        )
    return _Columns(str(image), str(captions), guess(names, ID_NAMES), guess(names, ("split",)))


def _captions(path: Path, columns: _Columns) -> pa.Table:
    """Everything but the images, under fixed names."""
    named = {"captions": columns.captions, "id": columns.id, "split": columns.split}
    table = pq.read_table(path, columns=[name for name in named.values() if name is not None])
    empty = pa.nulls(len(table), pa.string())
    filled: dict[str, Any] = {
        what: table[name] if name is not None else empty for what, name in named.items()
    }
    if columns.id is None:
        filled["id"] = pa.array([f"{path.name}:{row}" for row in range(len(table))], pa.string())
    return pa.table(filled)


def _n_bytes(path: Path) -> int:
    footer = pq.read_metadata(path)
    return sum(footer.row_group(n).total_byte_size for n in range(footer.num_row_groups))


def _images(
    paths: Sequence[Path], column: str, rows: list[int], n_bytes: int
) -> ImageColumn | RowGroups:
    if n_bytes > MOST_BYTES_HELD:
        _check_type(paths[0], pq.read_schema(paths[0]).field(column).type)
        return RowGroups(paths, column, rows)
    columns = []
    for path in paths:
        try:
            columns.append(_bytes_of(path, pq.read_table(path, columns=[column])[column]))
        except (pa.ArrowException, OSError) as error:
            raise TrainingDataError(f"{path} is not a readable Parquet file: {error}.") from error
    cells = pa.chunked_array([chunk for some in columns for chunk in some.chunks])
    return ImageColumn(cells if len(rows) == len(cells) else cells.take(pa.array(rows)))


def _bytes_of(path: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The bytes: the column itself, or the field `bytes` of a struct."""
    _check_type(path, column.type)
    if pa.types.is_struct(column.type):
        place = column.type.get_field_index("bytes")
        return pa.chunked_array([chunk.field(place) for chunk in column.chunks])
    return column


def _check_type(path: Path, kind: pa.DataType) -> None:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise TrainingDataError(
            f"The images are {kind} in {path}, not bytes. Put the content of the image files there."
        )
