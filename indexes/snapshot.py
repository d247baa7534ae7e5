"""The derived files: everything a plain query needs of one version of the items table.

They come in parts: a base, and a tail of what was written since, each with its rows and an index
over them. csd.json says which commit of which table they describe, and is replaced last and at
once, so what it names belongs together or is not used. All of it can be deleted at any time: it is
rebuilt, never trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prolip_search.errors import IndexDamaged
from prolip_search.indexes.blocks import DerivedDamage, Ints, MappedFile
from prolip_search.indexes.csd_index import (
    CsdIndex,
    FlatIndex,
    augmented_rows,
    padded_width,
    write_flat,
)
from prolip_search.indexes.durable import (
    TEMPORARY_SUFFIX,
    crc32_of,
    own_checksum,
    replace_file,
    writes,
)
from prolip_search.indexes.ivf_index import AugmentedRows, IvfIndex, code_width, write_ivf
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.mapped_rows import MappedRows, write_rows
from prolip_search.indexes.recall import tune
from prolip_search.indexes.reference import KeyCollector, ReferenceFile, keys_of, write_reference
from prolip_search.indexes.rows import MemoryRows, RowSource, rows_schema
from prolip_search.indexes.schema import in_schema, vectors_of
from prolip_search.indexes.stamp import TableStamp

POINTER_NAME = "csd.json"
POINTER_VERSION = 2
LARGEST_POINTER_BYTES = 1 << 22
FLAT_UP_TO = 50_000  # rows that "auto" compares one by one
_DERIVED_FILE = re.compile(
    r"csd-[0-9]{1,20}(-[0-9]{1,6})?\.(faiss|ivf|arrow|vectors|reference|dead)"
)


# What becomes of facts that no writer gives.
IMPOSSIBLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Part:
    """Some rows, ready to search. covers: the version of the table in which they were read.

    reference: None where it was written by a version that knew of none.
    """

    covers: int
    rows: RowSource
    index: CsdIndex
    facts: Mapping[str, Any]
    reference: ReferenceFile | None = None


@dataclass(frozen=True)
class Snapshot:
    """One version of the items table: a base and perhaps a tail.

    dead: rows of the base, ascending, that were deleted or written again since.
    """

    stamp: TableStamp
    parts: Sequence[Part]
    dead: Ints
    is_legacy: bool = False  # of pointer version 1: read as ever, but not built upon


def build_index(rows: pa.Table, dim: int) -> FlatIndex:
    """The index of some rows, in memory."""
    mean = vectors_of(rows["mean"], dim)
    return FlatIndex.build(augmented_rows(mean, rows["uncertainty"].to_numpy().astype(np.float32)))


def wanted_kind(settings: IndexSettings, n_rows: int) -> str:
    """The kind of index that so many rows get: "flat" or "ivf"."""
    if settings.kind != "auto":
        return settings.kind if n_rows else "flat"
    return "flat" if n_rows <= FLAT_UP_TO else "ivf"


def write_part(
    folder: Path, covers: int, batches: Iterable[pa.RecordBatch], dim: int, settings: IndexSettings
) -> dict[str, Any]:
    """Writes the files of one part from a stream of rows; what csd.json says of it.

    Memory does not grow with the rows but for some 60 bytes each. Raises OSError.
    """
    stem = _free_stem(folder, covers)
    passing = KeyCollector()
    facts = write_rows(
        stem.with_suffix(".vectors"), stem.with_suffix(".arrow"), passing.watch(batches), dim
    )
    rows = MappedRows(folder, facts, dim)
    facts["reference"] = write_reference(stem.with_suffix(".reference"), rows, passing.keys, dim)
    kind = wanted_kind(settings, len(rows))
    index = None
    if kind == "ivf":
        index = write_ivf(stem.with_suffix(".ivf"), AugmentedRows(rows, dim, code_width(dim)))
        untuned = index | {"n_probes": 1, "margin": 0}
        built = IvfIndex(folder, untuned, n_rows=len(rows), dim=dim)
        tuned = tune(built, rows, dim, settings.recall)
        # Without a setting that keeps the promise, rows are compared one by one after all.
        index = None if tuned is None else index | tuned
    if index is None:
        path = stem.with_suffix(".faiss")
        temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
        write_flat(temporary, len(rows), padded_width(dim), AugmentedRows(rows, dim))
        temporary.replace(path)
        index = {"kind": "flat", **_described(path)}
    asked = {"kind": kind} if kind == "flat" else {"kind": kind, "recall": settings.recall}
    return facts | {"covers": covers, "index": index | {"asked": asked}}


def add_reference(folder: Path, part: Part, dim: int) -> dict[str, Any]:
    """Writes the reference sample of a part that has none; what csd.json says of the part then."""
    columns = {name: part.rows.column(name) for name in ("id", "content_hash")}
    path = _free_stem(folder, part.covers).with_suffix(".reference")
    described = write_reference(path, part.rows, keys_of(pa.table(columns)), dim)
    return {**part.facts, "reference": described}


def write_pointer(
    folder: Path,
    *,
    items_table: str,
    stamp: TableStamp,
    parts: Sequence[Mapping[str, Any]],
    dead: Ints,
) -> None:
    """Makes parts that have been written the current derived files. Raises OSError.

    Nothing but csd.json is forced to the disk: should the machine fail before the rest is there,
    the checksums say so, and gigabytes need not be waited for.
    """
    described = None
    if len(dead):
        path = _free_stem(folder, stamp.version).with_suffix(".dead")
        replace_file(path, dead.astype("<i8").tobytes())
        described = _described(path)
    pointer: dict[str, Any] = {
        "format_version": POINTER_VERSION,
        "items_table": items_table,
        "table_version": stamp.version,
        "table_manifest_hash": stamp.manifest_hash,
        "parts": list(parts),
        "dead": described,
    }
    pointer["checksum"] = own_checksum(pointer)
    text = json.dumps(pointer, indent=1, sort_keys=True) + "\n"
    replace_file(folder / POINTER_NAME, text.encode())
    remove_leftovers(folder)


def read_snapshot(folder: Path, *, items_table: str, dim: int) -> Snapshot | None:
    """The current derived files; None when there are none for this table.

    What every search reads is checked now, the rest when it is first touched. Raises DerivedDamage.
    """
    pointer = _read_pointer(folder)
    if pointer is None or pointer.get("items_table") != items_table:
        return None
    path = folder / POINTER_NAME
    try:
        stamp = TableStamp(int(pointer["table_version"]), str(pointer["table_manifest_hash"]))
        if pointer["format_version"] == 1:
            return Snapshot(stamp, [_legacy_part(folder, pointer, dim)], np.empty(0, int), True)
        parts = [_open_part(folder, facts, dim) for facts in pointer["parts"]]
        if not 1 <= len(parts) <= 2:
            raise DerivedDamage(path, f"it names {len(parts)} parts")
        dead = np.empty(0, np.int64)
        if pointer["dead"] is not None:
            content = _checked_file(folder, pointer["dead"]).memory
            dead = np.frombuffer(content, "<i8").astype(np.int64)
            if len(dead) and not 0 <= dead.min() <= dead.max() < len(parts[0].rows):
                raise DerivedDamage(path, "it names rows that do not exist")
    except IndexDamaged:
        raise
    except (*IMPOSSIBLE, OSError, RuntimeError) as error:
        raise DerivedDamage(path, f"{type(error).__name__}: {error}") from error
    return Snapshot(stamp, parts, dead)


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
    current = set(_files_named(pointer))
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(TEMPORARY_SUFFIX)
        or (_DERIVED_FILE.fullmatch(path.name) and path.name not in current)
    )


def _free_stem(folder: Path, version: int) -> Path:
    """csd-<version>, or csd-<version>-2 and so on: nothing that a reader may be opening is replaced
    under its name.
    """
    names = (f"csd-{version}" + (f"-{number}" if number > 1 else "") for number in count(1))
    return next(folder / name for name in names if not any(folder.glob(f"{name}.*")))


def _files_named(part: object) -> Iterable[str]:
    """Every `file` that is named anywhere in the pointer."""
    if isinstance(part, dict):
        name = part.get("file")
        if isinstance(name, str):
            yield name
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            if isinstance(inner, dict | list):
                yield from _files_named(inner)


def _open_part(folder: Path, facts: Mapping[str, Any], dim: int) -> Part:
    for described in (facts["vectors"], facts["rows"], facts["index"]):
        _check_name(folder, described)
    rows = MappedRows(folder, facts, dim)
    reference = None
    if "reference" in facts:
        _check_name(folder, facts["reference"])
        reference = ReferenceFile(folder, facts["reference"], len(rows), dim)
    return Part(
        covers=int(facts["covers"]),
        rows=rows,
        index=_open_index(folder, facts["index"], len(rows), dim),
        facts=facts,
        reference=reference,
    )


def _open_index(folder: Path, facts: Mapping[str, Any], n_rows: int, dim: int) -> CsdIndex:
    width = padded_width(dim)
    if facts["kind"] == "flat":
        return FlatIndex.read(_checked_file(folder, facts), n_rows=n_rows, width=width)
    if facts["kind"] == "ivf":
        if not facts["recall"] or not all(isinstance(r, float) for r in facts["recall"].values()):
            raise DerivedDamage(folder / POINTER_NAME, "it gives no recall")
        return IvfIndex(folder, facts, n_rows=n_rows, dim=dim)
    raise DerivedDamage(folder / POINTER_NAME, "it describes an index of unknown kind")


def _legacy_part(folder: Path, pointer: Mapping[str, Any], dim: int) -> Part:
    """What pointer version 1 describes: one flat index, and all columns in one Arrow file."""
    n_rows = int(pointer["n_rows"])
    if pointer["index"]["kind"] != "flat" or n_rows < 0:
        raise DerivedDamage(folder / POINTER_NAME, "it describes an index of unknown kind")
    index = _checked_file(folder, pointer["index"])
    file = _checked_file(folder, pointer["rows"])
    table = in_schema(pa.ipc.open_file(pa.py_buffer(file.memory)).read_all(), rows_schema(dim))
    table.validate(full=True)
    if len(table) != n_rows:
        raise DerivedDamage(file.path, "its rows are not those of this index")
    return Part(
        covers=int(pointer["table_version"]),
        rows=MemoryRows(table),
        index=FlatIndex.read(index, n_rows=n_rows, width=padded_width(dim)),
        facts=pointer,
    )


def _read_pointer(folder: Path) -> dict[str, Any] | None:
    path = folder / POINTER_NAME
    try:
        if path.stat().st_size > LARGEST_POINTER_BYTES:
            raise DerivedDamage(path, f"it has more than {LARGEST_POINTER_BYTES} bytes")
        pointer = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except IndexDamaged:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DerivedDamage(path, str(error)) from error
    if not isinstance(pointer, dict) or pointer.get("format_version") not in (1, POINTER_VERSION):
        raise DerivedDamage(path, f"it is not of format version {POINTER_VERSION}")
    if pointer.get("checksum") not in (None, own_checksum(pointer)):
        raise DerivedDamage(path, "it does not match its checksum")
    return pointer


def _described(path: Path) -> dict[str, Any]:
    return {"file": path.name, "size_bytes": path.stat().st_size, "crc32": crc32_of(path)}


def _check_name(folder: Path, described: Mapping[str, Any]) -> None:
    name = described["file"]
    if not isinstance(name, str) or not _DERIVED_FILE.fullmatch(name):
        raise DerivedDamage(folder / POINTER_NAME, f"it names the file {name!r}")


def _checked_file(folder: Path, described: Mapping[str, Any]) -> MappedFile:
    """A derived file whose size and checksum are those that csd.json names."""
    _check_name(folder, described)
    file = MappedFile(folder / described["file"], int(described["size_bytes"]))
    file.check(0, len(file.memory), int(described["crc32"]))
    return file
