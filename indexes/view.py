"""One version of the index, ready to be read: consistent, and unchanged while it is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prolip_search.errors import IndexDamaged, ItemNotFound
from prolip_search.indexes.csd_index import CsdIndex
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.manifest import Manifest
from prolip_search.indexes.row_batches import RowBatches
from prolip_search.indexes.snapshot import Snapshot, build_index, read_snapshot, rows_schema
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
        rows: RowBatches,
        alive: NDArray[np.bool_] | None,
        parts: Sequence[IndexPart],
    ) -> None:
        self.stamp = stamp
        self.derived = derived
        self.rows = rows
        self.parts = parts
        self._alive = alive
        self._allowed: dict[frozenset[str], NDArray[np.bool_] | None] = {}
        self.masks: dict[Filter, NDArray[np.bool_]] = {}  # of filters.passing

    def allowed(self, kinds: frozenset[str]) -> NDArray[np.bool_] | None:
        """[N]: which positions are alive and of these kinds; None when all of them are."""
        if kinds not in self._allowed:
            column = self.rows.column("kind")
            mask = pc.is_in(column, pa.array(sorted(kinds), pa.string()))
            allowed = mask.to_numpy().astype(np.bool_)
            if self._alive is not None:
                allowed &= self._alive
            self._allowed[kinds] = None if allowed.all() else allowed
        return self._allowed[kinds]

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Every item, in ascending order of row id unless some were written since."""
        table = self.rows.table(columns)
        return table if self._alive is None else table.filter(pa.array(self._alive))

    @cached_property
    def row_ids(self) -> NDArray[np.int64]:
        """[N], the row id at each position."""
        return self.rows.column("row_id").to_numpy()  # type: ignore[no-any-return]  # pyarrow

    @cached_property
    def uncertainty(self) -> NDArray[np.float32]:
        """[N], the uncertainty at each position."""
        return self.rows.column("uncertainty").to_numpy()  # type: ignore[no-any-return]  # pyarrow

    def positions(self, row_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of items by row id. Raises ItemNotFound."""
        known, at = self._by_row_id
        found = np.searchsorted(known, row_ids)
        inside = np.minimum(found, max(len(known) - 1, 0))
        missing = np.ones(len(row_ids), bool) if not len(known) else known[inside] != row_ids
        if missing.any():
            raise ItemNotFound(
                f"The index has no row {int(row_ids[missing][0])}: it was removed, or the number "
                "comes from another index. Search again."
            )
        return found if at is None else at[found]

    def find(self, column: str, value: str) -> int | None:
        """The row id of the newest item whose column equals `value`, or None."""
        matches = pc.equal(self.rows.column(column), value).fill_null(False).to_numpy()
        if self._alive is not None:
            matches = matches & self._alive
        found = self.row_ids[matches]
        return int(found.max()) if len(found) else None

    @cached_property
    def _by_row_id(self) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Row ids of living items in ascending order, and their positions (None: the same)."""
        if self._alive is None and (self.row_ids[1:] > self.row_ids[:-1]).all():
            return self.row_ids, None
        at = np.arange(len(self.rows)) if self._alive is None else np.flatnonzero(self._alive)
        at = at[np.argsort(self.row_ids[at])]
        return self.row_ids[at], at


def load_view(folder: Path, manifest: Manifest) -> View:
    """The newest version of the index, read with as little as will do.

    Up-to-date derived files alone answer; Lance is imported only when they are behind the table,
    for the rows written since, or unusable, for all of them. Raises IndexDamaged when the table is.
    """
    table_path, dim = folder / manifest.items_table, manifest.encoder.dim
    # Before the derived files: were it read after them, a commit in between would go unseen.
    latest = latest_stamp(table_path)
    snapshot, state = _read_derived(folder, manifest)
    if snapshot is not None and snapshot.stamp == latest:
        parts = [IndexPart(0, snapshot.index)]
        return View(stamp=latest, derived="current", rows=snapshot.rows, alive=None, parts=parts)
    return _view_of_table(table_path, dim, snapshot, state)


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
    batches: list[pa.RecordBatch] = []
    parts: list[IndexPart] = []
    alive: NDArray[np.bool_] | None = None
    covered = 0
    # The derived files help only if their version is an ancestor of the table as it is now.
    if snapshot is not None and (
        stamp_of_version(table_path, snapshot.stamp.version) == snapshot.stamp
    ):
        row_ids, versions = table.row_versions()
        unchanged = row_ids[versions <= snapshot.stamp.version]
        alive = np.isin(snapshot.rows.column("row_id").to_numpy(), unchanged)
        if int(alive.sum()) == len(unchanged):
            covered = snapshot.stamp.version
            batches += snapshot.rows.batches
            parts.append(IndexPart(0, snapshot.index))
    tail = table.read(newer_than=covered).combine_chunks()
    start = sum(batch.num_rows for batch in batches)
    if covered and alive is not None:
        alive = np.concatenate([alive, np.ones(len(tail), bool)])
    else:
        alive = None
    if len(tail):
        batches += tail.to_batches()
        parts.append(IndexPart(start, build_index(tail, dim)))
    rows = RowBatches(batches, rows_schema(dim))
    return View(stamp=stamp, derived=state, rows=rows, alive=alive, parts=parts)
