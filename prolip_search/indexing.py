"""Bringing an index up to date with photos on disk, encoding only what is new or changed.

Scan the disk, compare with what the store remembers, ingest the difference, drop what is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from prolip_search.changes import (
    Scan,
    SkippedFile,
    StoredFile,
    compare,
    is_storable,
    keep_large_losses,
    relative_path,
    scan,
)
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import QueryError
from prolip_search.images import quiet_pillow
from prolip_search.indexes.store import Store
from prolip_search.ingestion import BATCH_SIZE, Ingestion, Progress, is_there


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """What one run did. notes: what a person should know, in sentences.

    n_missing: photos that are not on disk and are kept, in case their disk is not mounted.
    """

    n_added: int
    n_changed: int
    n_moved: int
    n_unchanged: int
    n_removed: int
    n_missing: int
    skipped: tuple[SkippedFile, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def n_photos(self) -> int:
        """Photos under the given paths that are in the index now."""
        n_seen = self.n_added + self.n_changed + self.n_moved + self.n_unchanged
        return n_seen + self.n_missing

    @property
    def n_new(self) -> int:
        """Photos of which the index learnt something: added, changed or moved."""
        return self.n_added + self.n_changed + self.n_moved

    @property
    def images_per_s(self) -> float:
        """Photos encoded per second of the whole run."""
        return (self.n_added + self.n_changed) / max(self.seconds, 1e-9)


def update(
    store: Store,
    encoder: Callable[[], Encoder],
    paths: Sequence[str | Path] | None,
    *,
    prune: bool = False,
    exclude: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    n_threads: int | None = None,
    progress: Progress = lambda n_done, n_total: None,
) -> IndexReport:
    """Makes the index agree with what lies under `paths`; the rest of the index stays as it is.

    paths: None for the folders of earlier runs. prune: drop what is gone even where it is so much
    that a disk may not be mounted. exclude: patterns as in .gitignore, relative to each folder.
    encoder is called only when something must be read. progress(n_done, n_total) is called in
    this thread. Raises QueryError, IndexLocked, IndexNotWritable and what the encoder raises.
    """
    start = time.perf_counter()
    with store.writer(), quiet_pillow():
        present, missing = _roots_of(store, paths, prune=prune)
        scanned = scan(
            present, root=store.root, index_folder=store.folder, exclude=exclude, missing=missing
        )
        _remember_roots(store, scanned, missing if prune else [])
        stored = _stored_files(store)
        before = _skipped_files(store)
        changes = compare(scanned, stored, before, prune=prune)
        taken = set(store.table(["id"])["id"].to_pylist())
        run = Ingestion(store, changes, stored, taken, batch_size)
        if changes.to_read:
            threads = n_threads or min(4, os.cpu_count() or 1)
            run.read_and_encode(encoder(), threads, progress)
        if not prune:
            roots = [scanned.absolute(path) for path in store.manifest.roots]
            keep_large_losses(changes, scanned, stored, roots)
        run.finish()
        skipped = {s.path: s for s in [*scanned.skipped, *changes.skipped, *run.skipped]}
        _record_skipped(store, before, skipped, scanned)
        store.refresh_index()
    return IndexReport(
        n_added=run.n_added,
        n_changed=run.n_changed,
        n_moved=run.n_moved,
        n_unchanged=changes.n_unchanged + run.n_touched,
        n_removed=run.n_removed,
        n_missing=len(changes.missing),
        skipped=tuple(skipped[path] for path in sorted(skipped)),
        notes=tuple(changes.notes),
        seconds=time.perf_counter() - start,
    )


def _roots_of(
    store: Store, paths: Sequence[str | Path] | None, *, prune: bool
) -> tuple[list[Path], list[Path]]:
    """The roots to walk, and those that are not there but whose files are asked about."""
    remembered = [Path(os.path.normpath(store.root / path)) for path in store.manifest.roots]
    if paths is None:
        if not remembered:
            raise QueryError(
                f"The index at {store.folder} remembers no folder. "
                "Name one: `prolip-search index PATH`."
            )
        return [p for p in remembered if p.exists()], [p for p in remembered if not p.exists()]
    present: list[Path] = []
    missing: list[Path] = []
    for path in map(Path, paths):
        real = Path(os.path.realpath(path))
        # One that is not there is the scan's error, unless it is to be forgotten.
        if (
            prune
            and not path.exists()
            and (real in remembered or len(store.files(relative_path(real, store.root))))
        ):
            missing.append(real)
        else:
            present.append(path)
    return present, missing


def _remember_roots(store: Store, scanned: Scan, forgotten: Sequence[Path]) -> None:
    folders = [home for home in scanned.roots if home.is_dir() and is_storable(home)]
    roots = {*store.manifest.roots, *(relative_path(home, store.root) for home in folders)}
    roots -= {relative_path(home, store.root) for home in forgotten}
    store.remember_roots(sorted(roots))


def _stored_files(store: Store) -> list[StoredFile]:
    table = store.files()
    table = table.filter(pc.and_(pc.equal(table["kind"], "image"), pc.is_valid(table["path"])))
    names = [f.name for f in fields(StoredFile)]
    columns = table.select(names).to_pydict()
    return [StoredFile(*values) for values in zip(*(columns[name] for name in names), strict=True)]


def _skipped_files(store: Store) -> dict[str, SkippedFile]:
    return {row["path"]: SkippedFile(**row) for row in store.skipped().to_pylist()}


def _record_skipped(
    store: Store, before: dict[str, SkippedFile], now: dict[str, SkippedFile], scanned: Scan
) -> None:
    """Keeps the store's list true: what was met this time, and what lies elsewhere as before."""
    new = [asdict(skip) for path, skip in now.items() if before.get(path) != skip]
    if new:
        columns = {name: [skip[name] for skip in new] for name in new[0]}
        store.record_skipped(pa.table(columns))
    good = [
        path
        for path in before
        if path not in now and (scanned.root_of(path) is not None or not is_there(store, path))
    ]
    if good:
        store.forget_skipped(good)
