"""Store: an index folder, opened. Everything else in this room serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from prolip_search.errors import IndexDamaged, IndexExists, QueryError
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.durable import writes
from prolip_search.indexes.lock import WriterLock
from prolip_search.indexes.manifest import (
    MANIFEST_NAME,
    EncoderRecord,
    Manifest,
    items_table_name,
    read_manifest,
    write_manifest,
)
from prolip_search.indexes.ranking import Hits, RankBy, search_view
from prolip_search.indexes.schema import checked_rows
from prolip_search.indexes.snapshot import remove_leftovers, write_snapshot
from prolip_search.indexes.stamp import latest_stamp, stamp_of_version
from prolip_search.indexes.view import DerivedState, View, load_view

# Lance takes a tenth of a second to import and a plain query does not need it, so the modules that
# import it are imported where something is written or listed.
if TYPE_CHECKING:
    from prolip_search.indexes.items import ItemsTable

INDEX_FOLDER = ".prolip-search"
FILE_COLUMNS = ("id", "kind", "path", "size_bytes", "mtime_ns", "content_hash")


class Store:
    """The Gaussians of a collection and what is known of each item, in one folder.

    Reading needs no lock and sees one version of the index: that of the first read since the store
    was opened, reloaded or last written through; `reload` moves on to the newest. Each method that
    writes is one commit and takes the writer's lock; `with store.writer():` keeps it over several.
    A crash at any instant leaves the state before a commit or after it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Used by `create` and `open`."""
        self.folder = folder
        self.manifest = manifest
        self._lock = WriterLock(folder)
        self._loaded: View | None = None

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}, encoder={self.encoder.name!r}, D={self.encoder.dim})"

    @classmethod
    def create(cls, folder: str | Path, *, encoder: EncoderRecord) -> Store:
        """A new, empty index at `folder`, which is made. Raises IndexExists, IndexNotWritable."""
        folder = Path(folder)
        with writes("a new index", folder):
            folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(encoder=encoder, items_table=items_table_name(encoder.fingerprint))
        store = cls(folder, manifest)
        with store.writer():
            if (folder / MANIFEST_NAME).exists():
                raise IndexExists(
                    f"There is an index at {folder} already. Add to it with `prolip-search index`.",
                    path=folder,
                )
            from prolip_search.indexes.items import ItemsTable

            ItemsTable.create(folder / manifest.items_table, encoder.dim)
            write_manifest(folder, manifest)
        return store

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The index at `folder`. Raises IndexNotFound, IndexTooNew, IndexDamaged."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not (folder / manifest.items_table).is_dir():
            raise IndexDamaged(
                f"The index at {folder} has lost its items table {manifest.items_table}. Restore "
                "it from a backup, or build the index anew with `prolip-search index --rebuild`.",
                path=folder / manifest.items_table,
            )
        return cls(folder, manifest)

    @staticmethod
    def find(start: str | Path) -> Path | None:
        """The index folder that governs `start`: in it or in the nearest folder above it."""
        start = Path(start).resolve()
        for above in (start, *start.parents):
            if (above / INDEX_FOLDER / MANIFEST_NAME).is_file():
                return above / INDEX_FOLDER
        return None

    @property
    def root(self) -> Path:
        """The folder that paths of items are relative to: the one that holds the index folder."""
        return self.folder.parent

    @property
    def encoder(self) -> EncoderRecord:
        """The encoder whose Gaussians these are."""
        return self.manifest.encoder

    # Reading

    @property
    def version(self) -> int:
        """The version of the items table that this store reads; every commit adds one."""
        stamp = self._view().stamp
        return 0 if stamp is None else stamp.version

    @property
    def derived_state(self) -> DerivedState:
        """How the derived files were found; all but "current" only make queries slower."""
        return self._view().derived

    def reload(self) -> bool:
        """Moves on to the newest version of the index; whether it is another than before."""
        if self._loaded is None:
            return False
        if self._loaded.stamp == latest_stamp(self.folder / self.manifest.items_table):
            return False
        self._loaded = None
        return True

    def count(self, kind: str | None = None) -> int:
        """How many items there are, or how many of a kind."""
        kinds = self._view().table(["kind"])["kind"]
        return len(kinds) if kind is None else int(pc.sum(pc.equal(kinds, kind)).as_py() or 0)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of every item (`row_id` is one of them), in no promised order."""
        view = self._view()
        return view.table(self._known(view, columns))

    def files(self, root_prefix: str | None = None) -> pa.Table:
        """What incremental indexing compares: id, kind, path, size_bytes, mtime_ns, content_hash.

        root_prefix: only what lies at or under that path, relative to the root, with slashes.
        """
        table = self.table(FILE_COLUMNS)
        if not root_prefix or root_prefix in (".", "/"):
            return table
        prefix = root_prefix.rstrip("/")
        inside = pc.or_(
            pc.equal(table["path"], prefix), pc.starts_with(table["path"], prefix + "/")
        )
        return table.filter(inside)

    def search(
        self,
        queries: Gaussians,
        k: int,
        *,
        kinds: Sequence[str] = ("image",),
        rank_by: RankBy = "csd",
        offset: int = 0,
    ) -> Hits:
        """The k nearest items of every query after the first `offset`, exactly, ties by id.

        queries [Q, D] -> row ids and CSD [Q, k], padded with −1 and infinity. rank_by: "csd", the
        default; "cosine" leaves the uncertainties out; "membership", by M(item | query), reads
        every row. Costs one matrix product and k rows. Raises DimensionMismatch, QueryError.
        """
        return search_view(
            self._view(),
            queries,
            k,
            dim=self.encoder.dim,
            kinds=kinds,
            rank_by=rank_by,
            offset=offset,
        )

    def rows(self, row_ids: ArrayLike, columns: Sequence[str]) -> pa.Table:
        """Some columns of some items, in the order of `row_ids`. Raises ItemNotFound."""
        view = self._view()
        return view.rows.take(self._positions(view, row_ids), self._known(view, columns))

    def gaussians(self, row_ids: ArrayLike) -> Gaussians:
        """The Gaussians of some items, in the order of `row_ids`. Raises ItemNotFound."""
        view = self._view()
        positions = self._positions(view, row_ids)
        return Gaussians(
            view.rows.vectors("mean", positions), view.rows.vectors("log_variance", positions)
        )

    def row_of(self, id: str) -> int | None:
        """The row id of an item, or None."""
        return self._view().find("id", id)

    def row_of_path(self, path: str) -> int | None:
        """The row id of the item at a path (the newest, were there several), or None."""
        return self._view().find("path", path)

    def skipped(self) -> pa.Table:
        """Files that were left out: path, reason, detail, size_bytes, mtime_ns, by path."""
        from prolip_search.indexes.skipped import SkippedFiles

        return SkippedFiles(self.folder).read()

    # Writing

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """Holds the writer's lock over several writes. Raises IndexLocked, IndexNotWritable.

        First tidies up what a writer that was killed, or met a full disk, had to leave.
        """
        left_behind = self._lock.acquire()
        clean = False
        try:
            if left_behind:
                self._tidy()
            yield
            clean = True
        except (QueryError, IndexExists):
            clean = True  # refused before anything was written
            raise
        finally:
            self._lock.release(clean=clean)

    def append(self, rows: pa.Table) -> None:
        """Adds items in one commit. Columns that may be null may be left out; `uncertainty` is
        computed. Raises QueryError (an id twice, a wrong column), InvalidGaussians,
        IndexNotWritable.
        """
        rows = checked_rows(rows, self.encoder.dim)
        if len(rows) == 0:
            return
        with self.writer():
            self._items().append(rows)
            self._loaded = None

    def delete(self, ids: Sequence[str]) -> int:
        """Drops items in one commit; how many of the ids there were."""
        with self.writer():
            n_deleted = self._items().delete(ids)
            self._loaded = None
        return n_deleted

    def move(self, moved: pa.Table) -> int:
        """Gives items a new path in one commit: (id, path, mtime_ns); how many there were.

        Row ids, Gaussians and everything else stay as they are.
        """
        if {"id", "path", "mtime_ns"} - set(moved.column_names):
            raise QueryError("Moving items needs the columns id, path and mtime_ns.")
        with self.writer():
            n_moved = self._items().move(moved)
            self._loaded = None
        return n_moved

    def refresh_index(self) -> None:
        """Brings the derived files up to the table, so that a query reads nothing else."""
        with self.writer():
            self._loaded = None
            if self._view().derived == "current":
                return
            items = self._items()
            stamp = stamp_of_version(items.path, items.version)
            if stamp is None:
                raise IndexDamaged(f"{items.path} has no version {items.version}.", path=items.path)
            write_snapshot(
                self.folder,
                items_table=self.manifest.items_table,
                stamp=stamp,
                rows=items.read(),
                dim=self.encoder.dim,
            )
            self._loaded = None

    def record_skipped(self, skipped: pa.Table) -> None:
        """Notes files that were left out (path, reason, detail, size_bytes, mtime_ns).

        Replaces what was noted of the same paths.
        """
        from prolip_search.indexes.skipped import SkippedFiles

        with self.writer():
            SkippedFiles(self.folder).record(skipped)

    def forget_skipped(self, paths: Sequence[str]) -> None:
        """Drops what was noted of files that are indexed now, or gone."""
        from prolip_search.indexes.skipped import SkippedFiles

        with self.writer():
            SkippedFiles(self.folder).forget(paths)

    # Inside

    def _view(self) -> View:
        view = self._loaded
        if view is None:
            view = self._loaded = load_view(self.folder, self.manifest)
        return view

    def _items(self) -> ItemsTable:
        from prolip_search.indexes.items import ItemsTable

        return ItemsTable.open(self.folder / self.manifest.items_table, self.encoder.dim)

    def _tidy(self) -> None:
        with writes("the index", self.folder):
            remove_leftovers(self.folder)
        if (self.folder / MANIFEST_NAME).is_file():
            self._items().remove_orphans()

    def _positions(self, view: View, row_ids: ArrayLike) -> NDArray[np.int64]:
        return view.positions(np.asarray(row_ids, dtype=np.int64).reshape(-1))

    def _known(self, view: View, columns: Sequence[str]) -> list[str]:
        for name in columns:
            if name not in view.rows.schema.names:
                raise QueryError(
                    f"Items have no column {name!r}; they have {', '.join(view.rows.schema.names)}."
                )
        return list(columns)
