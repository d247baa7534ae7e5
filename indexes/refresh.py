"""Bringing the derived files up to the items table at the cost of what has changed.

A tail holds what was written since the base; deleted rows of the base are listed. When both
together pass a share of the base, or when asked to, everything is written anew as one base. Rows
are streamed throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prolip_search.errors import IndexDamaged
from prolip_search.indexes.blocks import DerivedDamage, Ints
from prolip_search.indexes.durable import writes
from prolip_search.indexes.manifest import IndexSettings, Manifest
from prolip_search.indexes.snapshot import (
    Snapshot,
    add_reference,
    read_snapshot,
    wanted_kind,
    write_part,
    write_pointer,
)
from prolip_search.indexes.stamp import stamp_of_version

if TYPE_CHECKING:
    from prolip_search.indexes.items import ItemsTable

FOLD_SHARE = 0.05  # of the base: what may lie in the tail or be deleted
SMALL_BASE = 10_000  # rows that are written anew without a thought
TAIL_SETTINGS = IndexSettings(kind="flat")


def refresh(
    folder: Path, manifest: Manifest, items: ItemsTable, *, fold: bool, trusted: bool
) -> bool:
    """Writes derived files for the table as it is now; whether there was anything to do.

    fold: write everything anew. trusted: whether those that are there may be built upon. Needs the
    writer's lock. Raises IndexNotWritable, IndexDamaged.
    """
    dim = manifest.encoder.dim
    stamp = stamp_of_version(items.path, items.version)
    if stamp is None:
        raise IndexDamaged(f"{items.path} has no version {items.version}.", path=items.path)
    snapshot = _usable(folder, manifest, items) if trusted and not fold else None
    lacks_sample = snapshot is not None and any(p.reference is None for p in snapshot.parts)
    if snapshot is not None and snapshot.stamp == stamp and not lacks_sample:
        return False
    with writes("the search index", folder):
        dead = None if snapshot is None else _dead_rows(snapshot, items)
        base_facts = None if snapshot is None else _with_sample(folder, snapshot, dim)
        if snapshot is None or dead is None or base_facts is None:
            parts = [write_part(folder, stamp.version, items.stream(), dim, manifest.index)]
            dead = np.empty(0, np.int64)
        else:
            base = snapshot.parts[0]
            parts = [base_facts]
            if len(base.rows) - len(dead) < len(items):
                written_since = items.stream(newer_than=base.covers)
                parts.append(write_part(folder, stamp.version, written_since, dim, TAIL_SETTINGS))
        write_pointer(folder, items_table=manifest.items_table, stamp=stamp, parts=parts, dead=dead)
    return True


def _usable(folder: Path, manifest: Manifest, items: ItemsTable) -> Snapshot | None:
    """The derived files, if they are those of an ancestor and of the kind that is wanted."""
    try:
        snapshot = read_snapshot(folder, items_table=manifest.items_table, dim=manifest.encoder.dim)
    except IndexDamaged:
        return None
    if snapshot is None or stamp_of_version(items.path, snapshot.stamp.version) != snapshot.stamp:
        return None
    if snapshot.is_legacy:
        return snapshot
    base = snapshot.parts[0]
    kind = wanted_kind(manifest.index, len(base.rows))
    asked = {"kind": kind} if kind == "flat" else {"kind": kind, "recall": manifest.index.recall}
    return snapshot if base.facts["index"].get("asked") == asked else None


def _with_sample(folder: Path, snapshot: Snapshot, dim: int) -> dict[str, Any] | None:
    """What csd.json says of the base, a reference sample among it; None: write it anew."""
    base = snapshot.parts[0]
    if snapshot.is_legacy or base.reference is not None:
        return dict(base.facts)
    try:
        return add_reference(folder, base, dim)
    except DerivedDamage:
        return None


def _dead_rows(snapshot: Snapshot, items: ItemsTable) -> Ints | None:
    """The base's rows that are not in the table any more or were written since; None: fold."""
    base = snapshot.parts[0]
    if snapshot.is_legacy or len(base.rows) < SMALL_BASE:
        return None
    row_ids, versions = items.row_versions()
    unchanged = row_ids[versions <= base.covers]
    alive = np.isin(base.rows.row_ids, unchanged)
    n_written = len(row_ids) - len(unchanged)
    dead = np.flatnonzero(~alive)
    if len(alive) - len(dead) != len(unchanged):
        return None
    return None if n_written + len(dead) > FOLD_SHARE * len(alive) else dead
