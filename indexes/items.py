"""The items table: one Lance dataset with a row for every image and text, the truth of the index.

A Lance commit is the commit. Row ids are stable: they survive deletes, moves and compaction, and a
row id is never given to another item.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prolip_search.errors import IndexDamaged, QueryError
from prolip_search.indexes.durable import reason_of, writes
from prolip_search.indexes.schema import ADDED, checksums, folders_of, in_schema, items_schema
from prolip_search.indexes.seals import Seals
from prolip_search.indexes.stamp import latest_stamp, version_file

# Ids per IN (…) list: a predicate stays far below what Lance's SQL parser minds.
IDS_PER_PREDICATE = 2000
STREAMED_ROWS = 2048
STREAM_BUFFER_BYTES = 64 << 20
COMPACTED_ROWS = 1 << 18  # of a fragment: at D = 512 a gigabyte
FOR_EVER = timedelta(days=36500)


class ItemsTable:
    """The Lance dataset at `path`, as of its newest version when opened or last written."""

    def __init__(self, path: Path, dataset: Any, dim: int) -> None:
        self.path = path
        self.dim = dim
        self._dataset = dataset
        self._seals = Seals(path)

    @classmethod
    def create(cls, path: Path, dim: int) -> ItemsTable:
        """An empty table, in the place of what a killed `create` may have left there.

        Raises IndexDamaged when a table that was finished is there, IndexNotWritable.
        """
        with writes("the items table", path.parent):
            if path.exists():
                _refuse_if_made(path)
                shutil.rmtree(path)
            dataset = lance.write_dataset(
                items_schema(dim).empty_table(), str(path), enable_stable_row_ids=True
            )
        Seals(path).update()
        return cls(path, dataset, dim)

    @classmethod
    def open(cls, path: Path, dim: int) -> ItemsTable:
        """The table at its newest version. Raises IndexDamaged."""
        with reads(path):
            dataset = sealed_dataset(path)
            schema, has_stable_row_ids = dataset.schema, dataset.has_stable_row_ids
        # Columns that somebody added are let be: they are kept, not read, and null in new rows.
        for field in items_schema(dim):
            if field.name in ADDED and field.name not in schema.names:
                continue
            if field.name not in schema.names or schema.field(field.name) != field:
                raise _damaged(path, f"it has no column {field.name!r} of type {field.type}")
        if not has_stable_row_ids:
            raise _damaged(path, "it was written without stable row ids")
        return cls(path, dataset, dim)

    @property
    def version(self) -> int:
        """The version of the table that this object sees; every commit adds one."""
        return int(self._dataset.version)

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def append(self, rows: pa.Table) -> None:
        """One commit that adds checked rows. Raises QueryError for an id that is there already."""
        taken = self.existing(rows["id"].to_pylist())
        if taken:
            raise QueryError(
                f"The id {sorted(taken)[0]!r} is in the index already "
                f"({len(taken)} of {len(rows)} are). Remove it first, or choose another."
            )
        with writes("new items", self.path.parent):
            # Of an older table: a commit that touches the list of columns and no row.
            lacking = [name for name in ADDED if name not in self._dataset.schema.names]
            if lacking:
                schema = items_schema(self.dim)
                self._dataset.add_columns(pa.schema([schema.field(name) for name in lacking]))
            self._dataset = lance.write_dataset(rows, self._dataset, mode="append")
        self._seals.update()

    def delete(self, ids: Sequence[str]) -> int:
        """One commit that drops the items with these ids; how many there were."""
        present = self.existing(ids)
        if not present:
            return 0
        predicate = " OR ".join(_in_lists(sorted(present)))
        with writes("a deletion", self.path.parent):
            self._dataset.delete(predicate)
        self._seals.update()
        return len(present)

    def move(self, moved: pa.Table) -> int:
        """One commit that gives items (id) a new path and mtime_ns; how many there were.

        Row ids, Gaussians and all else stay. Raises QueryError for an id that comes twice.
        """
        if len(pc.unique(moved["id"])) < len(moved):
            raise QueryError("An item moves to one place: give each id once.")
        present = self.existing(moved["id"].to_pylist())
        moved = moved.filter(pc.is_in(moved["id"], pa.array(sorted(present), pa.string())))
        if len(moved) == 0:
            return 0
        moved = moved.select(["id", "path", "mtime_ns"])
        if "folder" in self._dataset.schema.names:
            moved = moved.append_column("folder", folders_of(moved["path"]))
        schema = items_schema(self.dim)
        source = moved.cast(pa.schema([schema.field(name) for name in moved.column_names]))
        with writes("moved items", self.path.parent):
            self._dataset.merge_insert("id").when_matched_update_all().execute(source)
        self._seals.update()
        return len(moved)

    def existing(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that the table holds."""
        if len(ids) > IDS_PER_PREDICATE:  # one look at all of them, instead of many at each
            with reads(self.path):
                wanted = pa.array(ids, pa.string())
                batches = self._dataset.scanner(columns=["id"]).to_batches()
                there = [b["id"].filter(pc.is_in(b["id"], wanted)) for b in batches]
            return {id for some in there for id in some.to_pylist()}
        found: set[str] = set()
        for predicate in _in_lists(ids):
            found.update(self._read(columns=["id"], filter=predicate)["id"].to_pylist())
        return found

    def read(self, *, newer_than: int = 0, ids: Sequence[str] | None = None) -> pa.Table:
        """All columns and `row_id`, ordered by row id; only rows written after that version.

        ids: only these items. Raises IndexDamaged when a row is not what was written.
        """
        predicate = f"_row_last_updated_at_version > {newer_than}" if newer_than else None
        if ids is not None:
            predicate = " OR ".join(_in_lists(ids)) or "false"
        schema = items_schema(self.dim)
        present = [name for name in schema.names if name in self._dataset.schema.names]
        fragments = None if ids is not None else self._checked_fragments(newer_than)
        table = self._read(columns=present, filter=predicate, with_row_id=True, fragments=fragments)
        self._verify(table)
        row_ids = table["_rowid"].cast(pa.int64())
        table = in_schema(table.drop_columns("_rowid"), schema)
        return _ordered_by(row_ids, table)

    def stream(self, *, newer_than: int = 0) -> Iterator[pa.RecordBatch]:
        """The same in batches, in the order in which they lie, with memory for a few of them."""
        predicate = f"_row_last_updated_at_version > {newer_than}" if newer_than else None
        schema = items_schema(self.dim)
        present = [name for name in schema.names if name in self._dataset.schema.names]
        fragments = self._checked_fragments(newer_than)
        with reads(self.path):
            scanner = self._dataset.scanner(
                columns=present,
                filter=predicate,
                fragments=fragments,
                with_row_id=True,
                batch_size=STREAMED_ROWS,
                batch_readahead=2,
                fragment_readahead=1,
                io_buffer_size=STREAM_BUFFER_BYTES,
                scan_in_order=True,
            )
            for batch in scanner.to_batches():
                table = pa.Table.from_batches([batch])
                self._verify(table)
                row_ids = table["_rowid"].cast(pa.int64())
                rows = in_schema(table.drop_columns("_rowid"), schema)
                yield from rows.add_column(0, "row_id", row_ids).combine_chunks().to_batches()

    def compact(self) -> bool:
        """Joins small fragments and drops what was deleted, in one commit; whether there was any.

        Row ids stay. The versions before stay until `forget_versions`.
        """
        with writes("the items table", self.path.parent):
            done = self._dataset.optimize.compact_files(
                target_rows_per_fragment=COMPACTED_ROWS,
                materialize_deletions_threshold=0.0,
                num_threads=1,
                batch_size=STREAMED_ROWS,
            )
            self._dataset = lance.dataset(str(self.path))
        self._seals.update()
        return bool(done.fragments_removed)

    def forget_versions(self) -> None:
        """Drops all versions but the newest, and the files that only they used. Needs the lock."""
        with writes("the items table", self.path.parent):
            self._dataset.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
        self._seals.update()

    def _verify(self, rows: pa.Table) -> None:
        """Compares checksums; a row that another program wrote without one is taken as it is."""
        stored = rows["checksum"].combine_chunks()
        wrong = pc.not_equal(stored, pa.array(checksums(rows, self.dim))).fill_null(False)
        if pc.any(wrong).as_py():
            id = rows["id"].filter(wrong)[0].as_py()
            raise _damaged(self.path, f"the item {id!r} does not match its checksum")

    def verify(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], list[str]]:
        """Row id and checksum [N] of every row, and the ids of those that do not match it.

        A row that another program wrote without a checksum has 0. Reads batch by batch.
        """
        columns = ["id", "kind", "mean", "log_variance", "uncertainty", "checksum"]
        row_ids, stored, wrong = [np.empty(0, np.int64)], [np.empty(0, np.uint32)], []
        self._checked_fragments(0)
        with reads(self.path):
            scanner = self._dataset.scanner(
                columns=columns, with_row_id=True, batch_size=STREAMED_ROWS
            )
            for batch in scanner.to_batches():
                rows = pa.Table.from_batches([batch])
                sums = rows["checksum"].combine_chunks()
                differ = pc.not_equal(sums, pa.array(checksums(rows, self.dim))).fill_null(False)
                wrong += rows["id"].filter(differ).to_pylist()
                row_ids.append(rows["_rowid"].to_numpy().astype(np.int64))
                stored.append(sums.fill_null(0).to_numpy())
        return np.concatenate(row_ids), np.concatenate(stored), wrong

    def row_versions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row id [N] and version last written in [N] of every row, in ascending order of row id."""
        name = "_row_last_updated_at_version"
        table = self._read(columns=[name], with_row_id=True)
        row_ids = table["_rowid"].to_numpy().astype(np.int64)
        order = np.argsort(row_ids)
        return row_ids[order], table[name].to_numpy().astype(np.int64)[order]

    def remove_orphans(self) -> None:
        """Drops files that no version refers to: what a killed writer left. Needs the lock."""
        with writes("the items table", self.path.parent):
            self._dataset.cleanup_old_versions(older_than=FOR_EVER, delete_unverified=True)
            for leftover in self.path.glob("*/*#*"):  # half-written files of Lance's object store
                leftover.unlink(missing_ok=True)
        self._seals.update()

    def count_orphans(self) -> int:
        """How many files `remove_orphans` would drop."""
        with reads(self.path):
            told = self._dataset.explain_cleanup_old_versions(
                older_than=FOR_EVER, delete_unverified=True
            )
        kinds = ("data_files", "transaction_files", "index_files", "deletion_files")
        n_orphans: int = sum(getattr(told.stats, f"{kind}_removed") for kind in kinds)
        return n_orphans + len(list(self.path.glob("*/*#*")))

    def _checked_fragments(self, newer_than: int) -> list[Any] | None:
        """The fragments that hold what was written after a version, once their files have been
        compared with their checksums; None: all of them.
        """
        with reads(self.path):
            fragments = self._dataset.get_fragments()
            old: set[str] = set()
            if newer_than:
                # A version that is dropped says nothing: everything may be newer, then.
                with contextlib.suppress(OSError, ValueError):
                    before = sealed_dataset(self.path, newer_than)
                    old = {name for one in before.get_fragments() for name in _data_files(one)}
            changed = [one for one in fragments if not old.issuperset(_data_files(one))]
            self._seals.check(name for one in changed for name in _data_files(one))
        return changed if old and changed else None

    def _read(self, **how: Any) -> pa.Table:
        with reads(self.path):
            return self._dataset.scanner(**how).to_table()


@contextlib.contextmanager
def reads(path: Path, damaged: Callable[[str], IndexDamaged] | None = None) -> Iterator[None]:
    """Turns whatever Lance does on bytes that it cannot read into one IndexDamaged.

    damaged: makes it from a reason, where damage of this table has a cure of its own.
    """
    made = partial(_damaged, path) if damaged is None else damaged
    try:
        yield
    except IndexDamaged as error:
        if damaged is None:
            raise
        raise damaged("its files are not what was written") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise made(reason_of(error)) from error
    except BaseException as error:
        # A panic of its Rust code comes as a BaseException whose class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise made(reason_of(error)) from error


def sealed_dataset(path: Path, version: int | None = None) -> Any:
    """A Lance dataset whose lists, of files and of deleted rows, have been compared with their
    checksums; its data has not. Raises IndexDamaged and what Lance raises.
    """
    seals = Seals(path)
    newest = latest_stamp(path) if version is None else None
    number = newest.version if newest is not None else version
    if number is not None:
        seals.check([f"_versions/{version_file(number)}"])
    dataset = lance.dataset(str(path), version=version)
    lists = (fragment.deletion_file() for fragment in dataset.get_fragments())
    seals.check(name for name in lists if name)
    return dataset


def check_data(path: Path, dataset: Any) -> None:
    """Compares the files of all rows of a table with their checksums. Raises IndexDamaged."""
    Seals(path).check(name for one in dataset.get_fragments() for name in _data_files(one))


def _data_files(fragment: Any) -> list[str]:
    return [f"data/{file.path}" for file in fragment.data_files()]


def _refuse_if_made(path: Path) -> None:
    """Refuses to replace a table that has a commit after the one that made it."""
    stamp = latest_stamp(path)
    if stamp is not None and stamp.version > 1:
        raise IndexDamaged(
            f"{path} holds items but the manifest beside it is gone. Restore it from a backup, or "
            f"delete {path.parent} and index again.",
            path=path,
        )


def _ordered_by(row_ids: pa.ChunkedArray, table: pa.Table) -> pa.Table:
    """`table` with `row_id` as its first column, in ascending order of it."""
    table = table.add_column(0, "row_id", row_ids)
    numbers = row_ids.to_numpy()
    if len(numbers) > 1 and (numbers[1:] < numbers[:-1]).any():
        table = table.take(np.argsort(numbers))
    return table


def _in_lists(ids: Sequence[str]) -> list[str]:
    """SQL predicates `id IN (…)` for the ids, a bounded number of them each."""
    return [
        f"id IN ({', '.join(_quoted(text) for text in ids[at : at + IDS_PER_PREDICATE])})"
        for at in range(0, len(ids), IDS_PER_PREDICATE)
    ]


def _quoted(text: str) -> str:
    """An SQL string: the quote is doubled; nothing else is special to Lance, newlines included."""
    return "'" + text.replace("'", "''") + "'"


def _damaged(path: Path, reason: str) -> IndexDamaged:
    return IndexDamaged(
        f"The items table {path} is damaged: {reason}. Restore it from a backup, or build the "
        "index anew with `prolip-search index --rebuild`.",
        path=path,
    )
