"""The derived files: everything a plain query needs of one version of the items table.

csd-<version>.faiss holds the augmented rows, csd-<version>.arrow all columns of the table in the
same order, memory-mapped when read, and csd.json says which commit of which table they describe,
with their sizes and checksums. csd.json is replaced last and at once, so the three belong together
or are not used. All of it can be deleted at any time: it is rebuilt, never trusted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prolip_search.errors import IndexDamaged
from prolip_search.indexes.csd_index import FlatIndex, augmented_rows, padded_width
from prolip_search.indexes.durable import (
    TEMPORARY_SUFFIX,
    crc32_of,
    replace_file,
    writes,
)
from prolip_search.indexes.row_batches import RowBatches
from prolip_search.indexes.schema import in_schema, items_schema, vectors_of
from prolip_search.indexes.stamp import TableStamp

POINTER_NAME = "csd.json"
POINTER_VERSION = 1
LARGEST_POINTER_BYTES = 1 << 20
_DERIVED_FILE = re.compile(r"csd-[0-9]{1,20}\.(faiss|arrow)")


@dataclass(frozen=True)
class Snapshot:
    """One version of the items table, ready to search. rows: in ascending order of row id."""

    stamp: TableStamp
    rows: RowBatches
    index: FlatIndex


def rows_schema(dim: int) -> pa.Schema:
    """The columns of a snapshot: `row_id`, then those of the items table."""
    return pa.schema([pa.field("row_id", pa.int64()), *items_schema(dim)])


def build_index(rows: pa.Table, dim: int) -> FlatIndex:
    """The index of some rows, in memory."""
    mean = vectors_of(rows["mean"], dim)
    return FlatIndex.build(augmented_rows(mean, rows["uncertainty"].to_numpy().astype(np.float32)))


def write_snapshot(
    folder: Path, *, items_table: str, stamp: TableStamp, rows: pa.Table, dim: int
) -> None:
    """Writes the derived files of a version and makes them the current ones.

    rows: all of the table, ordered by row id. Raises IndexNotWritable.
    """
    index = build_index(rows, dim)
    index_path = folder / f"csd-{stamp.version}.faiss"
    rows_path = folder / f"csd-{stamp.version}.arrow"
    # Nothing but csd.json is forced to the disk: should the machine fail before the rest is there,
    # the checksums say so, and half a gigabyte need not be waited for.
    with writes("the search index", folder):
        temporary = index_path.with_name(index_path.name + TEMPORARY_SUFFIX)
        index.write(temporary)
        temporary.replace(index_path)
        temporary = rows_path.with_name(rows_path.name + TEMPORARY_SUFFIX)
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows.combine_chunks())
        temporary.replace(rows_path)
        pointer = {
            "format_version": POINTER_VERSION,
            "items_table": items_table,
            "table_version": stamp.version,
            "table_manifest_hash": stamp.manifest_hash,
            "n_rows": len(rows),
            "index": {"kind": "flat", **_described(index_path)},
            "rows": _described(rows_path),
        }
        text = json.dumps(pointer, indent=2, sort_keys=True) + "\n"
        replace_file(folder / POINTER_NAME, text.encode())
        remove_leftovers(folder)


def read_snapshot(folder: Path, *, items_table: str, dim: int) -> Snapshot | None:
    """The current derived files, checked; None when there are none for this table.

    Raises IndexDamaged when they are not what was written.
    """
    pointer = _read_pointer(folder)
    if pointer is None or pointer.get("items_table") != items_table:
        return None
    path = folder / POINTER_NAME
    try:
        stamp = TableStamp(int(pointer["table_version"]), str(pointer["table_manifest_hash"]))
        n_rows = int(pointer["n_rows"])
        if pointer["index"]["kind"] != "flat" or n_rows < 0:
            raise _damaged(path, "it describes an index of unknown kind")
        index_path = _checked_file(folder, pointer["index"])
        rows_path = _checked_file(folder, pointer["rows"])
        index = FlatIndex.read(index_path, n_rows=n_rows, width=padded_width(dim))
        reader = pa.ipc.open_file(pa.memory_map(str(rows_path)))
        schema = rows_schema(dim)
        batches = [
            in_schema(reader.get_batch(number), schema)
            for number in range(reader.num_record_batches)
        ]
    except IndexDamaged:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, OSError, RuntimeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    rows = RowBatches(batches, schema)
    if len(rows) != n_rows:
        raise _damaged(rows_path, "its rows are not those of this index")
    return Snapshot(stamp, rows, index)


def drop_snapshot(folder: Path) -> None:
    """Removes the derived files, so that they are written anew. Needs the lock."""
    with writes("the search index", folder):
        (folder / POINTER_NAME).unlink(missing_ok=True)
        remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Drops derived and temporary files that nothing refers to. Needs the lock. Raises OSError."""
    for path in leftover_files(folder):
        path.unlink(missing_ok=True)


def leftover_files(folder: Path) -> list[Path]:
    """Derived and temporary files that nothing refers to."""
    try:
        pointer = _read_pointer(folder) or {}
    except IndexDamaged:
        pointer = {}
    parts = (pointer.get("index"), pointer.get("rows"))
    current = {part.get("file") for part in parts if isinstance(part, dict)}
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(TEMPORARY_SUFFIX)
        or (_DERIVED_FILE.fullmatch(path.name) and path.name not in current)
    )


def _read_pointer(folder: Path) -> dict[str, Any] | None:
    path = folder / POINTER_NAME
    try:
        if path.stat().st_size > LARGEST_POINTER_BYTES:
            raise _damaged(path, f"it has more than {LARGEST_POINTER_BYTES} bytes")
        pointer = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(pointer, dict) or pointer.get("format_version") != POINTER_VERSION:
        raise _damaged(path, f"it is not of format version {POINTER_VERSION}")
    return pointer


def _described(path: Path) -> dict[str, Any]:
    return {"file": path.name, "size_bytes": path.stat().st_size, "crc32": crc32_of(path)}


def _checked_file(folder: Path, described: dict[str, Any]) -> Path:
    """The path of a derived file whose size and checksum are those that csd.json names."""
    name = described["file"]
    if not isinstance(name, str) or not _DERIVED_FILE.fullmatch(name):
        raise _damaged(folder / POINTER_NAME, f"it names the file {name!r}")
    path = folder / name
    if path.stat().st_size != described["size_bytes"] or crc32_of(path) != described["crc32"]:
        raise _damaged(path, "its size or checksum is not what was written")
    return path


def _damaged(path: Path, what: str) -> IndexDamaged:
    return IndexDamaged(
        f"{path} is damaged: {what}. It is derived from the items table; "
        "run `prolip-search index` to write it anew.",
        path=path,
    )
