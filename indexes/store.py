"""Store: an index folder, opened. Everything else in this room serves it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prolip_search.errors import (
    EncoderMismatch,
    IndexDamaged,
    IndexExists,
    IndexTooNew,
    QueryError,
)
from prolip_search.indexes.blocks import DerivedDamage
from prolip_search.indexes.durable import writes
from prolip_search.indexes.history import History
from prolip_search.indexes.lock import WriterLock
from prolip_search.indexes.manifest import (
    ITEMS_TABLE,
    MANIFEST_NAME,
    EncoderRecord,
    IndexSettings,
    Manifest,
    items_table_name,
    read_manifest,
    write_manifest,
)
from prolip_search.indexes.reader import IndexReader
from prolip_search.indexes.refresh import refresh
from prolip_search.indexes.schema import checked_rows
from prolip_search.indexes.snapshot import drop_snapshot, leftover_files, remove_leftovers
from prolip_search.indexes.stamp import stamp_of_version

# Lance takes a tenth of a second to import and a plain query does not need it, so the modules that
# import it are imported where something is written or listed.
if TYPE_CHECKING:
    from prolip_search.indexes.items import ItemsTable
    from prolip_search.indexes.judgements import Judgements

INDEX_FOLDER = ".prolip-search"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemsCheck:
    """What reading every item found. wrong_ids: of items that do not match their checksum.

    same_in_derived: whether up-to-date derived files hold the same rows; True where there are none.
    """

    n_items: int
    wrong_ids: list[str]
    same_in_derived: bool


class Store(IndexReader):
    """The Gaussians of a collection and what is known of each item, in one folder.

    Each method that writes is one commit and takes the writer's lock; `with store.writer():` keeps
    it over several. A crash at any instant leaves the state before a commit or after it. What was
    written through a store is what it reads next; commits of other processes it sees on `reload`.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Used by `create`, `open` and `rebuild`."""
        super().__init__(folder, manifest)
        self._lock = WriterLock(folder)
        self._published = True

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        encoder: EncoderRecord,
        index: IndexSettings = IndexSettings(),  # noqa: B008  # frozen
    ) -> Store:
        """A new, empty index at `folder`, which is made. Raises IndexExists, IndexNotWritable."""
        folder = Path(folder)
        with writes("a new index", folder):
            folder.mkdir(parents=True, exist_ok=True)
        table = items_table_name(encoder.fingerprint)
        manifest = Manifest(encoder=encoder, items_table=table, index=index)
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

    @classmethod
    def rebuild(cls, folder: str | Path, *, encoder: EncoderRecord) -> Store:
        """An empty items table beside that of the index at `folder`, for Gaussians of any encoder.

        Fill it, then `publish` puts it in the old one's place; until then the index answers as
        before. A rebuild that was interrupted goes on with what it had. Raises IndexNotFound,
        IndexNotWritable.
        """
        folder = Path(folder)
        index = IndexSettings()
        try:
            old = read_manifest(folder)
            taken, index = {old.items_table, *old.replaced}, old.index
        except (IndexDamaged, IndexTooNew):  # a rebuild is the cure; any table may be in use
            taken = {path.name for path in folder.iterdir() if ITEMS_TABLE.fullmatch(path.name)}
        name = items_table_name(encoder.fingerprint, taken=taken)
        store = cls(folder, Manifest(encoder=encoder, items_table=name, index=index))
        store._published = False
        with store.writer():
            from prolip_search.indexes.items import ItemsTable

            try:
                store._items()
            except IndexDamaged:  # not there, or not to be gone on with
                with writes("a new items table", folder):
                    shutil.rmtree(folder / name, ignore_errors=True)
                ItemsTable.create(folder / name, encoder.dim)
        return store

    def publish(self) -> None:
        """Makes a rebuilt table the index, by one rename, and drops the table it replaces."""
        with self.writer():
            if self._published:
                return
            tables = {p.name for p in self.folder.iterdir() if ITEMS_TABLE.fullmatch(p.name)}
            replaced = tuple(sorted(tables - {self.manifest.items_table}))
            self.manifest = replace(self.manifest, replaced=replaced)
            write_manifest(self.folder, self.manifest)
            self._published = True
            self._drop_replaced()
            self.manifest = replace(self.manifest, replaced=())
            self.refresh_index()

    @staticmethod
    def find(start: str | Path) -> Path | None:
        """The index folder that governs `start`: in it or in the nearest folder above it."""
        start = Path(start).resolve()
        for above in (start, *start.parents):
            if (above / INDEX_FOLDER / MANIFEST_NAME).is_file():
                return above / INDEX_FOLDER
        return None

    def skipped(self) -> pa.Table:
        """Files that were left out: path, reason, detail, size_bytes, mtime_ns, by path."""
        from prolip_search.indexes.skipped import SkippedFiles

        return SkippedFiles(self.folder).read()

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
            self._refuse_replaced()
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
        """Drops items in one commit, and then what was judged of them; how many there were."""
        with self.writer():
            n_deleted = self._items().delete(ids)
            self._loaded = None
            if self._published:
                # Damaged, it is the concern of whoever reads it next, and no reason to stop here.
                with contextlib.suppress(IndexDamaged):
                    self._judgements().forget_items(ids)
        return n_deleted

    def count_stored(self) -> int:
        """How many items of any kind were last written; unlike `count` it reads none of them."""
        return len(self._items())

    def read_items(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of some items, as last written, in no promised order; unknown ids are none.

        Unlike `rows` it reads no more of a table that is being written to than these items.
        """
        return self._items().read(ids=ids).select(columns)

    def remember_roots(self, roots: Sequence[str]) -> None:
        """Notes which folders the index is of, as paths of items are written."""
        with self.writer():
            if tuple(roots) == self.manifest.roots:
                return
            self.manifest = replace(self.manifest, roots=tuple(roots))
            if self._published:
                write_manifest(self.folder, self.manifest)

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

    def refresh_index(self, *, fold: bool = False) -> None:
        """Brings the derived files up to the table, so that a query reads nothing else.

        Costs what was written since, and now and then, or with `fold`, one pass over everything. A
        rebuild has no derived files before it is published.
        """
        with self.writer():
            trusted = self._loaded is None or self._loaded.derived != "damaged"
            self._loaded = None
            if self._published:
                refresh(self.folder, self.manifest, self._items(), fold=fold, trusted=trusted)

    def configure(self, index: IndexSettings) -> None:
        """Says how the index is to be made from the next refresh on. Raises IndexNotWritable."""
        with self.writer():
            if index == self.manifest.index:
                return
            self.manifest = replace(self.manifest, index=index)
            if self._published:
                write_manifest(self.folder, self.manifest)

    def optimize(self) -> None:
        """Makes the index as small and fast as it can be; what it holds stays the same.

        Joins fragments of the table, drops what was deleted and old versions of the table, and
        writes the derived files anew as one. Row ids stay. A crash leaves the state before or after
        each of these steps, all of which answer alike.
        """
        with self.writer():
            items = self._items()
            items.compact()
            self.refresh_index(fold=True)
            items.forget_versions()
            self._judgements().tidy(fold=True)

    def check_derived(self) -> None:
        """Reads every byte of the derived files that this store reads. Raises IndexDamaged."""
        self._view().check_derived()

    def verify_items(self) -> ItemsCheck:
        """Reads every item and compares it with its checksum, and with the derived files.

        Constant memory but for row ids. Raises IndexDamaged where the table cannot be read at all.
        """
        items = self._items()
        row_ids, checksums, wrong = items.verify()
        same = bool(wrong) or self._same_in_derived(items, row_ids, checksums)
        return ItemsCheck(n_items=len(row_ids), wrong_ids=wrong, same_in_derived=same)

    def _same_in_derived(
        self, items: ItemsTable, row_ids: NDArray[np.int64], checksums: NDArray[np.uint32]
    ) -> bool:
        """Whether derived files that claim to be up to date, and are whole, hold the same rows."""
        view = self._view()
        if view.derived != "current" or view.stamp != stamp_of_version(items.path, items.version):
            return True
        try:
            derived = view.table(["row_id", "checksum"]).sort_by("row_id")
        except DerivedDamage:
            return True  # what `check_derived` is for
        order = np.argsort(row_ids)
        return np.array_equal(derived["row_id"].to_numpy(), row_ids[order]) and np.array_equal(
            derived["checksum"].fill_null(0).to_numpy(), checksums[order]
        )

    def leftovers(self) -> list[str]:
        """What a writer that was killed left behind, in the words of a list; the next removes it.

        Raises IndexDamaged.
        """
        replaced = [n for n in self.manifest.replaced if (self.folder / n).is_dir()]
        n_orphans = self._items().count_orphans()
        return [
            *(path.name for path in leftover_files(self.folder)),
            *(f"{name}, which a rebuild replaced" for name in replaced),
            *([f"{n_orphans} parts of {self.manifest.items_table}"] if n_orphans else []),
        ]

    def unfinished_rebuilds(self) -> list[str]:
        """Items tables that wait to be published; `rebuild` goes on with one of its encoder."""
        known = {self.manifest.items_table, *self.manifest.replaced}
        tables = {p.name for p in self.folder.iterdir() if ITEMS_TABLE.fullmatch(p.name)}
        return sorted(tables - known)

    def repair(self) -> None:
        """Removes leftovers, and writes everything derived anew. Raises IndexDamaged.

        The list of skipped files counts as derived when it cannot be read: an indexing run makes it
        again.
        """
        from prolip_search.indexes.skipped import SkippedFiles

        with self.writer():
            self._tidy()
            SkippedFiles(self.folder).drop_if_damaged()
            self._loaded = None
            drop_snapshot(self.folder)
            self.refresh_index()

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

    def judgements(self) -> pa.Table:
        """Everything that was judged, oldest first, as FORMAT.md has it. Raises IndexDamaged."""
        return self._judgements().read()

    def count_judgements(self) -> int:
        """How many rows the table of judgements has."""
        return len(self._judgements())

    def record_judgements(self, rows: pa.Table) -> None:
        """Adds judgements in one commit. Raises QueryError for rows that are none."""
        with self.writer():
            self._judgements().append(rows)

    def replace_judgements(self, rows: pa.Table) -> None:
        """Puts rows in the place of all in one commit: the same judgements, encoded anew."""
        with self.writer():
            self._judgements().replace(rows)

    def forget_judgements(self) -> int:
        """Drops all judgements, and what was fitted from them; how many there were."""
        with self.writer():
            self.set_calibration(None)
            return self._judgements().forget_all()

    def set_calibration(self, calibration: Mapping[str, Any] | None) -> None:
        """Keeps what was fitted from the judgements, as JSON; None: nothing is fitted."""
        with self.writer():
            if calibration == self.manifest.calibration:
                return
            self.manifest = replace(self.manifest, calibration=calibration)
            if self._published:
                write_manifest(self.folder, self.manifest)

    @property
    def history(self) -> History:
        """What was asked of this index before."""
        return History(self.folder)

    def _judgements(self) -> Judgements:
        from prolip_search.indexes.judgements import Judgements

        return Judgements(self.folder)

    def _items(self) -> ItemsTable:
        from prolip_search.indexes.items import ItemsTable

        return ItemsTable.open(self.folder / self.manifest.items_table, self.encoder.dim)

    def _tidy(self) -> None:
        with writes("the index", self.folder):
            remove_leftovers(self.folder)
        if self._published and self._is_made():
            self._drop_replaced()
        if (self.folder / self.manifest.items_table).is_dir() and self._is_made():
            try:
                items = self._items()
            except IndexDamaged:
                if self._published:
                    raise
                return  # of a rebuild that was cut short when it made its table: it makes it anew
            items.remove_orphans()
        if self._is_made():
            with contextlib.suppress(IndexDamaged):
                self._judgements().tidy()

    def _drop_replaced(self) -> None:
        """Drops the tables that a publish replaced; one that was killed could not do it itself."""
        manifest = read_manifest(self.folder)
        if not manifest.replaced:
            return
        with writes("the index", self.folder):
            for name in manifest.replaced:
                if (self.folder / name).is_dir():
                    shutil.rmtree(self.folder / name)
        write_manifest(self.folder, replace(manifest, replaced=()))

    def _is_made(self) -> bool:
        return (self.folder / MANIFEST_NAME).is_file()

    def _refuse_replaced(self) -> None:
        """Refuses to write Gaussians of one encoder into an index that was rebuilt with another."""
        if not self._published or not self._is_made():
            return
        manifest = read_manifest(self.folder)
        if manifest.encoder.fingerprint != self.encoder.fingerprint:
            raise EncoderMismatch(
                index_name=manifest.encoder.name,
                index_fingerprint=manifest.encoder.fingerprint,
                name=self.encoder.name,
                fingerprint=self.encoder.fingerprint,
            )
        self.manifest = manifest
