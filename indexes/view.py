"""One version of the index, ready to be read: consistent, and unchanged while it is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prolip_search.errors import IndexDamaged, ItemNotFound
from prolip_search.indexes.blocks import Ints
from prolip_search.indexes.csd_index import CsdIndex
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.manifest import Manifest
from prolip_search.indexes.reference import ReferenceFile
from prolip_search.indexes.rows import MemoryRows, Rows, RowSource, count_kinds, rows_schema
from prolip_search.indexes.schema import KINDS
from prolip_search.indexes.snapshot import Snapshot, build_index, read_snapshot
from prolip_search.indexes.stamp import TableStamp, latest_stamp, stamp_of_version

DerivedState = Literal["current", "behind", "missing", "damaged"]


@dataclass(frozen=True)
class IndexPart:
    """A stretch of rows, from position `start` on, that one index covers."""

    start: int
    index: CsdIndex

    @property
    def stop(self) -> int:
        return self.start + self.index.n_rows


@dataclass(frozen=True)
class IndexFacts:
    """What answers a search.

    kind: "flat" (exact) or "ivf". recall: the recall@10 measured when it was built, the least over
    the kinds of query that were tried; None for an exact index. n_tail: rows searched beside it,
    one by one, until they are folded in; n_dead: rows in the files that are not found any more.
    """

    kind: str
    recall: float | None
    n_tail: int
    n_dead: int


class View:
    """All rows of one version by position 0…N−1, dead ones among them, and the indexes over them.

    Rows of the derived files come first, then rows written since. A row that was deleted or
    changed since the derived files were written is dead: it keeps its position and is not found.
    """

    def __init__(
        self,
        *,
        stamp: TableStamp | None,
        derived: DerivedState,
        rows: Rows,
        alive: NDArray[np.bool_] | None,
        parts: Sequence[IndexPart],
        recall: float | None = None,
        references: Mapping[int, ReferenceFile] | None = None,
    ) -> None:
        self.stamp = stamp
        self.derived = derived
        self.rows = rows
        self.parts = parts
        self.references = references or {}  # by the position of the first row that each is of
        self.samples: dict[object, object] = {}  # of evidence.sample_of
        self._alive = alive
        self._recall = recall
        self._allowed: dict[frozenset[str], NDArray[np.bool_] | None] = {}
        self.masks: dict[Filter, NDArray[np.bool_]] = {}  # of filters.passing

    @property
    def index_facts(self) -> IndexFacts:
        """What answers a search of this version."""
        return IndexFacts(
            kind=self.parts[0].index.kind if self.parts else "flat",
            recall=self._recall,
            n_tail=len(self.rows) - (self.parts[0].stop if self.parts else 0),
            n_dead=0 if self._alive is None else int((~self._alive).sum()),
        )

    @property
    def is_exact(self) -> bool:
        """Whether every row is compared with every query."""
        return all(part.index.rounding is not None for part in self.parts)

    def allowed(self, kinds: frozenset[str]) -> NDArray[np.bool_] | None:
        """[N]: which positions are alive and of these kinds; None when all of them are."""
        if kinds not in self._allowed:
            numbers = [KINDS.index(kind) for kind in kinds]
            sources = self.rows.sources
            n_allowed = sum(int(source.kind_counts[numbers].sum()) for source in sources)
            allowed = None
            if self._alive is not None or n_allowed < len(self.rows):
                all_kinds = [np.empty(0, np.uint8), *(source.kinds for source in sources)]
                allowed = np.isin(np.concatenate(all_kinds), numbers)
                if self._alive is not None:
                    allowed &= self._alive
            self._allowed[kinds] = allowed
        return self._allowed[kinds]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Every item, in ascending order of row id unless some were written since."""
        table = self.rows.table(columns)
        return table if self._alive is None else table.filter(pa.array(self._alive))

    def check_derived(self) -> None:
        """Makes sure of every byte of the derived files. Raises DerivedDamage."""
        indexes = [part.index for part in self.parts]
        for part in [*self.rows.sources, *indexes, *self.references.values()]:
            check_all = getattr(part, "check_all", None)
            if check_all is not None:  # what is in memory, or was checked whole, has none
                check_all()

    def positions(self, row_ids: Ints) -> Ints:
        """The positions of items by row id. Raises ItemNotFound."""
        result = np.full(len(row_ids), -1, np.int64)
        for number, start in enumerate(self.rows.starts[:-1]):
            rows = self.rows.sources[number].rows_of(row_ids)
            there, found = rows >= 0, start + rows
            if self._alive is not None:
                there &= self._alive[found]
            result[there] = found[there]
        if (result < 0).any():
            raise ItemNotFound(
                f"The index has no row {int(row_ids[result < 0][0])}: it was removed, or the "
                "number comes from another index. Search again."
            )
        return result

    def count(self, kind: str | None = None) -> int:
        """How many items there are, or how many of a kind."""
        n = 0
        for start, source in zip(self.rows.starts, self.rows.sources, strict=False):
            counts = source.kind_counts
            if self._alive is not None:
                counts = count_kinds(source.kinds[self._alive[start : start + len(source)]])
            n += int(counts.sum() if kind is None else counts[KINDS.index(kind)])
        return n

    def find(self, column: str, value: str) -> int | None:
        """The row id of the newest item whose column equals `value`, or None."""
        matches = pc.equal(self.rows.column(column), value).fill_null(False).to_numpy()
        if self._alive is not None:
            matches = matches & self._alive
        found = self.rows.row_ids(np.flatnonzero(matches))
        return int(found.max()) if len(found) else None


def load_view(folder: Path, manifest: Manifest, *, use_derived: bool = True) -> View:
    """The newest version of the index, read with as little as will do.

    Up-to-date derived files alone answer; Lance is imported only when they are behind the table,
    for the rows written since, or unusable, for all of them. use_derived: whether they may be used
    at all. Raises IndexDamaged when the table is.
    """
    table_path, dim = folder / manifest.items_table, manifest.encoder.dim
    n_attempts = 0
    while True:
        # Before the derived files: were it read after them, a commit in between would go unseen.
        latest = latest_stamp(table_path)
        snapshot, state = _read_derived(folder, manifest) if use_derived else (None, "damaged")
        if snapshot is not None and snapshot.stamp == latest:
            return _view(latest, "current", snapshot, None, None, dim)
        try:
            return _view_of_table(table_path, dim, snapshot, state)
        except IndexDamaged:
            # A writer may have dropped the version that was being read: look once more.
            n_attempts += 1
            if n_attempts == 3 or latest_stamp(table_path) == latest:
                raise


def _read_derived(folder: Path, manifest: Manifest) -> tuple[Snapshot | None, DerivedState]:
    table, dim = manifest.items_table, manifest.encoder.dim
    try:
        try:
            snapshot = read_snapshot(folder, items_table=table, dim=dim)
        except IndexDamaged:
            # A writer may have replaced the files while they were being read: look once more.
            snapshot = read_snapshot(folder, items_table=table, dim=dim)
    except IndexDamaged:
        return None, "damaged"
    return snapshot, "missing" if snapshot is None else "behind"


def _view_of_table(
    table_path: Path, dim: int, snapshot: Snapshot | None, state: DerivedState
) -> View:
    # The one place of the query path that may need Lance; it costs a tenth of a second to import.
    from prolip_search.indexes.items import ItemsTable

    table = ItemsTable.open(table_path, dim)
    stamp = stamp_of_version(table_path, table.version)
    # The derived files help only if their version is an ancestor of the table as it is now.
    if snapshot is not None and (
        stamp_of_version(table_path, snapshot.stamp.version) == snapshot.stamp
    ):
        row_ids, versions = table.row_versions()
        unchanged = row_ids[versions <= snapshot.stamp.version]
        in_files = np.concatenate([part.rows.row_ids for part in snapshot.parts])
        alive = np.isin(in_files, unchanged)
        alive[snapshot.dead] = False
        if int(alive.sum()) == len(unchanged):
            newer = table.read(newer_than=snapshot.stamp.version)
            return _view(stamp, state, snapshot, alive, newer, dim)
    return _view(stamp, state, None, None, table.read(), dim)


def _view(
    stamp: TableStamp | None,
    state: DerivedState,
    snapshot: Snapshot | None,
    alive: NDArray[np.bool_] | None,
    newer: pa.Table | None,
    dim: int,
) -> View:
    """The parts of a snapshot (alive: which of their rows, None for all but the dead ones) and
    the rows written since.
    """
    sources: list[RowSource] = []
    indexes: list[CsdIndex] = []
    if snapshot is not None:
        sources += [part.rows for part in snapshot.parts]
        indexes += [part.index for part in snapshot.parts]
        if alive is None and len(snapshot.dead):
            alive = np.ones(sum(map(len, sources)), np.bool_)
            alive[snapshot.dead] = False
    if newer is not None and len(newer):
        sources.append(MemoryRows(newer))
        indexes.append(build_index(newer, dim))
        if alive is not None:
            alive = np.concatenate([alive, np.ones(len(newer), np.bool_)])
    if alive is not None and alive.all():
        alive = None
    starts = np.concatenate([[0], np.cumsum([len(source) for source in sources])])
    parts = [
        IndexPart(int(start), index)
        for start, index in zip(starts, indexes, strict=False)
        if index.n_rows
    ]
    references = {}
    if snapshot is not None:
        files = zip(starts, (part.reference for part in snapshot.parts), strict=False)
        references = {int(start): file for start, file in files if file is not None}
    recall = None
    if snapshot is not None and not snapshot.is_legacy:
        measured = snapshot.parts[0].facts["index"].get("recall")
        recall = min(measured.values()) if measured else None
    return View(
        stamp=stamp,
        derived=state,
        rows=Rows(sources, rows_schema(dim)),
        alive=alive,
        parts=parts,
        recall=recall,
        references=references,
    )
