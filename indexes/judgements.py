"""judgements.lance: what people said of queries and items, the truth behind every calibration.

Rows are only added, each commit at once; of several on the same query and item the last one counts.
Rows of items that leave the index leave with them. What is fitted from them is derived and lies in
the manifest.
"""

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
from prolip_search.indexes.items import FOR_EVER, check_data, reads, sealed_dataset
from prolip_search.indexes.seals import Seals
from prolip_search.indexes.stamp import latest_stamp

JUDGEMENTS_NAME = "judgements.lance"
LABELS = ("match", "no_match", "target", "none")
SOURCES = ("judge", "pairs", "thumbs")
JUDGEMENTS_SCHEMA = pa.schema(
    [
        pa.field("query_kind", pa.string(), nullable=False),
        pa.field("query_text", pa.string()),
        pa.field("query_hash", pa.string()),
        pa.field("query_image", pa.binary()),
        pa.field("query_mean", pa.list_(pa.float32()), nullable=False),
        pa.field("query_log_variance", pa.list_(pa.float32()), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("item_hash", pa.string()),
        pa.field("label", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rank", pa.int32()),
        pa.field("judged_probability", pa.float64()),
        pa.field("size_then", pa.int64()),
        pa.field("encoder", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
    ]
)


class Judgements:
    """One row for each judgement; the table appears with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JUDGEMENTS_NAME
        self._seals = Seals(self._path)

    def read(self) -> pa.Table:
        """All of them, oldest first. Raises IndexDamaged."""
        dataset = self._open()
        if dataset is None:
            return JUDGEMENTS_SCHEMA.empty_table()
        with reads(self._path, self._damaged):
            check_data(self._path, dataset)
            table = dataset.to_table()
            known = table.select([n for n in JUDGEMENTS_SCHEMA.names if n in table.column_names])
            return known.cast(JUDGEMENTS_SCHEMA).combine_chunks()

    def __len__(self) -> int:
        dataset = self._open()
        return 0 if dataset is None else int(dataset.count_rows())

    def append(self, rows: pa.Table) -> None:
        """Adds judgements in one commit; columns that may be null may be left out.

        Raises QueryError for rows that are none, IndexDamaged, IndexNotWritable.
        """
        rows = checked_judgements(rows)
        if len(rows) == 0:
            return
        dataset = self._open()
        with writes(JUDGEMENTS_NAME, self._path.parent):
            if dataset is None:
                shutil.rmtree(self._path, ignore_errors=True)  # of one that was killed at the first
                lance.write_dataset(rows, str(self._path), enable_stable_row_ids=True)
            else:
                lance.write_dataset(rows, dataset, mode="append")
        self._seals.update()

    def replace(self, rows: pa.Table) -> None:
        """Puts these rows in the place of all, in one commit: their queries were encoded anew."""
        rows = checked_judgements(rows)
        dataset = self._open()
        if dataset is None:
            return self.append(rows)
        with writes(JUDGEMENTS_NAME, self._path.parent):
            lance.write_dataset(rows, dataset, mode="overwrite")
        self._seals.update()
        return None

    def forget_items(self, ids: Sequence[str]) -> int:
        """Drops the rows of these items in one commit; how many there were."""
        dataset = self._open()
        if dataset is None or not ids:
            return 0
        with reads(self._path, self._damaged):
            check_data(self._path, dataset)
            judged = dataset.to_table(columns=["item_id"], with_row_id=True)
            gone = judged.filter(pc.is_in(judged["item_id"], pa.array(ids, pa.string())))
        if len(gone) == 0:
            return 0
        numbers = ", ".join(str(number) for number in gone["_rowid"].to_pylist())
        with writes(JUDGEMENTS_NAME, self._path.parent):
            dataset.delete(f"_rowid IN ({numbers})")
        self._seals.update()
        return len(gone)

    def forget_all(self) -> int:
        """Drops every row in one commit; how many there were."""
        n_rows = len(self)
        if n_rows:
            self.replace(JUDGEMENTS_SCHEMA.empty_table())
        return n_rows

    def tidy(self, *, fold: bool = False) -> None:
        """Drops what a killed writer left; with `fold` joins the many small commits as well."""
        dataset = self._open()
        if dataset is None:
            return
        with writes(JUDGEMENTS_NAME, self._path.parent):
            if fold:
                dataset.optimize.compact_files(num_threads=1)
                dataset = lance.dataset(str(self._path))
            dataset.cleanup_old_versions(older_than=FOR_EVER, delete_unverified=True)
        self._seals.update()

    def _open(self) -> Any:
        """None without a table; Lance is not looked for then."""
        # A writer that was killed at its first commit leaves a folder without a version.
        if latest_stamp(self._path) is None:
            return None
        with reads(self._path, self._damaged):
            return sealed_dataset(self._path)

    def _damaged(self, reason: str) -> IndexDamaged:
        return IndexDamaged(
            f"{self._path} is damaged: {reason}. Restore it from a backup; or delete that folder, "
            "which forgets what was judged, and run `prolip-search calibrate` again.",
            path=self._path,
        )


def checked_judgements(rows: pa.Table) -> pa.Table:
    """`rows` in the table's schema. Raises QueryError for what cannot be a judgement."""
    unknown = [name for name in rows.column_names if name not in JUDGEMENTS_SCHEMA.names]
    if unknown:
        raise QueryError(f"A judgement has no {unknown[0]!r}.")
    columns = []
    for field in JUDGEMENTS_SCHEMA:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(len(rows), field.type))
            continue
        try:
            columns.append(rows[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise QueryError(f"The {field.name} of a judgement is {field.type}: {error}") from error
    table = pa.Table.from_arrays(columns, schema=JUDGEMENTS_SCHEMA)
    for field in JUDGEMENTS_SCHEMA:
        if not field.nullable and table[field.name].null_count:
            raise QueryError(f"A judgement needs a {field.name}.")
    for name, allowed in (
        ("query_kind", ("text", "image")),
        ("label", LABELS),
        ("source", SOURCES),
    ):
        strange = set(pc.unique(table[name]).to_pylist()) - set(allowed)
        if strange:
            raise QueryError(
                f"The {name} of a judgement is one of {', '.join(allowed)}, "
                f"not {sorted(strange)[0]!r}."
            )
    about_nothing = pc.equal(table["label"], "none")
    if pc.any(pc.xor(about_nothing, pc.is_null(table["item_id"]))).as_py():
        raise QueryError("A judgement names an item, unless it says that nothing matches.")
    return table
