"""The rows of one part of the derived files: written as a stream, read through memory mapping.

csd-<version>.vectors holds what a ranking measures, csd-<version>.arrow the other columns.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prolip_search.indexes.blocks import (
    CheckedBlocks,
    DerivedDamage,
    Floats,
    Ints,
    MappedFile,
    between,
)
from prolip_search.indexes.durable import TEMPORARY_SUFFIX
from prolip_search.indexes.rows import (
    VECTORS,
    RowFinder,
    count_kinds,
    indices,
    kind_numbers,
    rows_schema,
)
from prolip_search.indexes.schema import KINDS, in_schema, vectors_of

ROWS_PER_BATCH = 2048  # of the Arrow file: what is checked to show one result
FEW = 1000  # row ids that are looked for one by one
N_KINDS = len(KINDS) + 1  # and those that are none of them
BLOCK_BYTES = 4096  # about, of the vectors: what is checked to measure one candidate


def other_columns(dim: int) -> pa.Schema:
    """The columns of the Arrow file: all but the vectors."""
    return pa.schema([field for field in rows_schema(dim) if field.name not in VECTORS])


def rows_per_block(dim: int) -> int:
    """How many rows of vectors share one checksum: a power of two, at most 512."""
    return 1 << min(9, max(0, (BLOCK_BYTES // (8 * dim)).bit_length() - 1))


def write_rows(
    vectors_path: Path, rows_path: Path, batches: Iterable[pa.RecordBatch], dim: int
) -> dict[str, Any]:
    """Writes both files from a stream of rows and gives what csd.json says of them.

    Needs memory for a few batches and some 20 bytes a row. Raises OSError.
    """
    per_block, schema = rows_per_block(dim), other_columns(dim)
    row_ids, uncertainty = [np.empty(0, "<i8")], [np.empty(0, "<f4")]
    kinds, crcs = [np.empty(0, "u1")], [np.empty(0, "<u4")]
    bounds: list[int] = []
    vectors_temporary = vectors_path.with_name(vectors_path.name + TEMPORARY_SUFFIX)
    rows_temporary = rows_path.with_name(rows_path.name + TEMPORARY_SUFFIX)
    with vectors_temporary.open("wb") as vectors, pa.OSFile(str(rows_temporary), "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            bounds.append(file.tell())
            for rows in _in_pieces(batches, ROWS_PER_BATCH):
                numbers = np.hstack([vectors_of(rows[name], dim) for name in VECTORS])  # [n, 2D]
                numbers = np.ascontiguousarray(numbers, "<f4")
                vectors.write(numbers.data)
                # Copies: a view would keep the whole batch, vectors and all, in memory.
                own = rows["uncertainty"].to_numpy().astype("<f4")
                blocks = [slice(at, at + per_block) for at in range(0, len(own), per_block)]
                crcs.append(
                    np.array(
                        [zlib.crc32(own[b].data, zlib.crc32(numbers[b].data)) for b in blocks],
                        "<u4",
                    )
                )
                row_ids.append(rows["row_id"].to_numpy().astype("<i8"))
                uncertainty.append(own)
                kinds.append(kind_numbers(rows["kind"]))
                writer.write_batch(rows.select(schema.names).cast(schema).to_batches()[0])
                bounds.append(file.tell())
        # Before all else what begins at a multiple of its size; last what is checked at opening.
        all_ids, all_kinds = np.concatenate(row_ids), np.concatenate(kinds)
        n_rows = len(all_ids)
        others = np.concatenate(uncertainty).tobytes() + np.concatenate(crcs).tobytes()
        others += bytes(-len(others) % 8) + all_ids.tobytes() + all_kinds.tobytes()
        others += bytes(-len(others) % 8)
        head = _head(all_ids, all_kinds)
        vectors.write(others + head)
    size_bytes = rows_temporary.stat().st_size
    content = MappedFile(rows_temporary, size_bytes).memory
    facts = {
        "n_rows": n_rows,
        "vectors": {
            "file": vectors_path.name,
            "size_bytes": 8 * dim * n_rows + len(others) + len(head),
            "head_crc32": zlib.crc32(head),
        },
        "rows": {
            "file": rows_path.name,
            "size_bytes": size_bytes,
            "bounds": bounds,
            "crc32": [zlib.crc32(content[start:stop]) for start, stop in pairwise(bounds)],
            "frame_crc32": zlib.crc32(content[bounds[-1] :], zlib.crc32(content[: bounds[0]])),
        },
    }
    vectors_temporary.replace(vectors_path)
    rows_temporary.replace(rows_path)
    return facts


def _head(row_ids: Ints, kinds: NDArray[np.uint8]) -> bytes:
    """How many rows of each kind; whether row ids ascend; the first of each batch; checksums of the
    row ids and kinds of each batch.
    """
    starts = np.arange(0, len(row_ids), ROWS_PER_BATCH)
    crcs = [
        zlib.crc32(
            kinds[at : at + ROWS_PER_BATCH].data,
            zlib.crc32(row_ids[at : at + ROWS_PER_BATCH].data),
        )
        for at in starts.tolist()
    ]
    ascending = not (row_ids[1:] < row_ids[:-1]).any()
    numbers = np.concatenate([count_kinds(kinds), [ascending], row_ids[starts]])
    return numbers.astype("<i8").tobytes() + np.array(crcs, "<u4").tobytes()


def _in_pieces(batches: Iterable[pa.RecordBatch], n_rows: int) -> Iterator[pa.Table]:
    """The rows of a stream, so many at a time, each piece in one chunk."""
    waiting: list[pa.RecordBatch] = []
    n_waiting = 0
    for batch in batches:
        waiting.append(batch)
        n_waiting += batch.num_rows
        while n_waiting >= n_rows:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, n_rows).combine_chunks()
            waiting = table.slice(n_rows).to_batches()
            n_waiting -= n_rows
    if n_waiting:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _multiple_of_8(n_bytes: int) -> int:
    return -(-n_bytes // 8) * 8


class MappedRows:
    """Rows of derived files. What is touched is checked first; raises DerivedDamage then."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], dim: int) -> None:
        """facts: what `write_rows` gave. Raises DerivedDamage, and KeyError, TypeError or
        ValueError for facts that no writer gives.
        """
        n_rows, per_block = int(facts["n_rows"]), rows_per_block(dim)
        described = facts["vectors"]
        self._file = MappedFile(folder / described["file"], int(described["size_bytes"]))
        n_blocks, n_batches = -(-n_rows // per_block), -(-n_rows // ROWS_PER_BATCH)
        at = 8 * dim * n_rows  # where the uncertainties begin, then the checksums of vectors
        ids = _multiple_of_8(at + 4 * n_rows + 4 * n_blocks)  # where the row ids begin, then kinds
        head = _multiple_of_8(ids + 9 * n_rows)
        n_numbers = N_KINDS + 1 + n_batches
        memory = self._file.memory
        if n_rows < 0 or len(memory) != head + 8 * n_numbers + 4 * n_batches:
            raise DerivedDamage(self._file.path, f"it does not hold {n_rows} rows")
        self._file.check(head, len(memory), int(described["head_crc32"]))
        self._numbers = np.frombuffer(memory, "<f4", n_rows * 2 * dim).reshape(n_rows, 2, dim)
        self._uncertainty: Floats = np.frombuffer(memory, "<f4", n_rows, at)
        self._kinds = np.frombuffer(memory, "u1", n_rows, ids + 8 * n_rows)
        self._finder = RowFinder(np.frombuffer(memory, "<i8", n_rows, ids))
        numbers = np.frombuffer(memory, "<i8", n_numbers, head)
        self._kind_counts, self._ascending = numbers[:N_KINDS], bool(numbers[N_KINDS])
        self._first_ids = numbers[N_KINDS + 1 :]
        if self._kind_counts.min() < 0 or self._kind_counts.sum() != n_rows:
            raise DerivedDamage(self._file.path, f"it does not count {n_rows} rows")

        def of_vectors(block: int) -> Sequence[tuple[int, int]]:
            start, stop = block * per_block, min((block + 1) * per_block, n_rows)
            return (8 * dim * start, 8 * dim * stop), (at + 4 * start, at + 4 * stop)

        def of_ids(batch: int) -> Sequence[tuple[int, int]]:
            start, stop = batch * ROWS_PER_BATCH, min((batch + 1) * ROWS_PER_BATCH, n_rows)
            kinds = ids + 8 * n_rows
            return (ids + 8 * start, ids + 8 * stop), (kinds + start, kinds + stop)

        crcs = np.frombuffer(memory, "<u4", n_blocks, at + 4 * n_rows)
        self._vector_blocks = CheckedBlocks(self._file, crcs, of_vectors)
        crcs = np.frombuffer(memory, "<u4", n_batches, head + 8 * n_numbers)
        self._id_blocks = CheckedBlocks(self._file, crcs, of_ids)
        self._per_block = per_block
        self._open_others(folder, facts["rows"], dim)

    def _open_others(self, folder: Path, described: Mapping[str, Any], dim: int) -> None:
        file = MappedFile(folder / described["file"], int(described["size_bytes"]))
        bounds = np.array(described["bounds"], np.int64)
        crcs = np.array(described["crc32"], np.uint32)
        n_batches = -(-len(self) // ROWS_PER_BATCH)
        if len(bounds) != n_batches + 1 or len(crcs) != n_batches or (np.diff(bounds) < 0).any():
            raise DerivedDamage(file.path, "it is not described as these rows are")
        if bounds[0] < 0 or bounds[-1] > len(file.memory):
            raise DerivedDamage(file.path, "it is shorter than it is described to be")
        frame = file.crc32(int(bounds[-1]), len(file.memory), file.crc32(0, int(bounds[0])))
        if frame != described["frame_crc32"]:
            raise DerivedDamage(file.path, "its frame is not what was written")
        self._others = CheckedBlocks(file, crcs, between(bounds))
        self._schema = other_columns(dim)
        try:
            self._reader = pa.ipc.open_file(pa.py_buffer(file.memory))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DerivedDamage(file.path, str(error)) from error
        if self._reader.num_record_batches != n_batches:
            raise DerivedDamage(file.path, "its rows are not those of this index")
        in_schema(pa.Table.from_batches([], self._reader.schema), self._schema)
        self._batches: dict[int, pa.RecordBatch] = {}
        self._rows_path = file.path

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def row_ids(self) -> Ints:
        self._id_blocks.check_rest()
        return self._finder.row_ids

    @property
    def kinds(self) -> NDArray[np.uint8]:
        self._id_blocks.check_rest()
        return self._kinds

    @property
    def kind_counts(self) -> Ints:
        return self._kind_counts

    def row_ids_at(self, rows: Ints) -> Ints:
        """The row ids of some rows."""
        self._id_blocks.check(rows // ROWS_PER_BATCH)
        return self._finder.row_ids[rows]

    def rows_of(self, row_ids: Ints) -> Ints:
        """Where some row ids are; −1 for those that are not here."""
        if not self._ascending or len(row_ids) > FEW:
            self._id_blocks.check_rest()
            return self._finder.rows_of(row_ids)
        found = np.full(len(row_ids), -1, np.int64)
        batches = np.searchsorted(self._first_ids, row_ids, side="right") - 1
        for at in np.flatnonzero(batches >= 0):
            self._id_blocks.check(batches[at : at + 1])
            start = int(batches[at]) * ROWS_PER_BATCH
            batch = self._finder.row_ids[start : start + ROWS_PER_BATCH]
            place = int(np.searchsorted(batch, row_ids[at]))
            if place < len(batch) and batch[place] == row_ids[at]:
                found[at] = start + place
        return found

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column. Costs a check of all of the file that it is in."""
        if name in VECTORS:
            dim = self._numbers.shape[2]
            vectors = pa.array(self.vectors(name, np.arange(len(self))).reshape(-1))
            return pa.chunked_array([pa.FixedSizeListArray.from_arrays(vectors, dim)])
        batches = [self._batch(number) for number in range(len(self._others))]
        field = self._schema.field(name)
        return pa.chunked_array([batch.column(name) for batch in batches], field.type)

    def take(self, rows: Ints, columns: Sequence[str]) -> pa.Table:
        """Some rows of some columns, in the order of `rows`."""
        others = [name for name in columns if name not in VECTORS]
        which = rows // ROWS_PER_BATCH
        parts, order = [], []
        for number in sorted(set(which.tolist())):
            here = np.flatnonzero(which == number)
            batch = self._batch(number).select(others)
            parts.append(batch.take(indices(rows[here] - number * ROWS_PER_BATCH)))
            order.append(here)
        schema = pa.schema([self._schema.field(name) for name in others])
        table = pa.Table.from_batches(parts, schema)
        if len(parts) > 1:
            table = table.combine_chunks().take(indices(np.argsort(np.concatenate(order))))
        for at, name in enumerate(columns):
            if name in VECTORS:
                dim = self._numbers.shape[2]
                flat = pa.array(self.vectors(name, rows).reshape(-1))
                table = table.add_column(at, name, pa.FixedSizeListArray.from_arrays(flat, dim))
        return table

    def uncertainty(self, rows: Ints) -> Floats:
        """The uncertainties of some rows."""
        self._vector_blocks.check(rows // self._per_block)
        found: Floats = self._uncertainty[rows]
        return found

    def vectors(self, name: str, rows: Ints) -> Floats:
        """Rows of a vector column, [n, D]."""
        self._vector_blocks.check(rows // self._per_block)
        found: Floats = self._numbers[rows, VECTORS.index(name)]
        return found

    def check_all(self) -> None:
        """Makes sure of every byte. Raises DerivedDamage."""
        self._vector_blocks.check_all()
        self._id_blocks.check_all()
        self._others.check_all()

    def _batch(self, number: int) -> pa.RecordBatch:
        batch = self._batches.get(number)
        if batch is None:
            self._others.check(np.array([number]))
            n_rows = min(ROWS_PER_BATCH, len(self) - number * ROWS_PER_BATCH)
            try:
                batch = in_schema(self._reader.get_batch(number), self._schema)
                batch.validate(full=True)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DerivedDamage(self._rows_path, str(error)) from error
            if batch.num_rows != n_rows:
                raise DerivedDamage(self._rows_path, "a batch has another number of rows")
            self._batches[number] = batch
        return batch
