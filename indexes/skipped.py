"""skipped.lance: files that were left out of the index, and why."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from prolip_search.errors import IndexDamaged, QueryError
from prolip_search.indexes.durable import writes
from prolip_search.indexes.items import check_data, reads, sealed_dataset
from prolip_search.indexes.seals import Seals

SKIPPED_NAME = "skipped.lance"
SKIPPED_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
    ]
)


class SkippedFiles:
    """One row for each path that was left out; the table appears with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SKIPPED_NAME

    def read(self) -> pa.Table:
        """All of them, ordered by path. Raises IndexDamaged."""
        dataset = self._open()
        if dataset is None:
            return SKIPPED_SCHEMA.empty_table()
        with reads(self._path, self._damaged):
            check_data(self._path, dataset)
            return dataset.to_table().select(SKIPPED_SCHEMA.names).sort_by("path")

    def record(self, skipped: pa.Table) -> None:
        """Puts these rows in the place of those of the same paths, in one commit."""
        missing = [name for name in SKIPPED_SCHEMA.names if name not in skipped.column_names]
        if missing:
            raise QueryError(f"A record of skipped files needs the column {missing[0]!r}.")
        try:
            rows = skipped.select(SKIPPED_SCHEMA.names).cast(SKIPPED_SCHEMA)
        except (pa.ArrowInvalid, ValueError) as error:
            raise QueryError(f"Not a record of skipped files: {error}") from error
        if len(rows) == 0:
            return
        if len(pc.unique(rows["path"])) < len(rows):
            raise QueryError("A path is skipped for one reason: give each path once.")
        dataset = self._open()
        with writes(SKIPPED_NAME, self._path.parent):
            if dataset is None:
                lance.write_dataset(rows, str(self._path), enable_stable_row_ids=True)
            else:
                upsert = dataset.merge_insert("path").when_matched_update_all()
                upsert.when_not_matched_insert_all().execute(rows)
        Seals(self._path).update()

    def forget(self, paths: Sequence[str]) -> None:
        """Drops the rows of these paths, in one commit: they are indexed now, or gone."""
        kept = self.read()
        kept = kept.filter(pc.invert(pc.is_in(kept["path"], pa.array(paths, pa.string()))))
        dataset = self._open()
        if dataset is None or len(kept) == dataset.count_rows():
            return
        with writes(SKIPPED_NAME, self._path.parent):
            lance.write_dataset(kept, dataset, mode="overwrite")
        Seals(self._path).update()

    def drop_if_damaged(self) -> bool:
        """Removes the whole list where it cannot be read; whether it was so. Needs the lock."""
        try:
            self.read()
        except IndexDamaged:
            with writes(SKIPPED_NAME, self._path.parent):
                shutil.rmtree(self._path)
            return True
        return False

    def _open(self) -> Any:
        if not self._path.is_dir():
            return None
        with reads(self._path, self._damaged):
            return sealed_dataset(self._path)

    def _damaged(self, reason: str) -> IndexDamaged:
        return IndexDamaged(
            f"{self._path} is damaged: {reason}. It only lists files that "
            "were left out: delete that folder and run `prolip-search index` again.",
            path=self._path,
        )
