"""Photo libraries with an index, and the jobs that change it: what the fault tests interrupt.

A job's library is made once and copied for every fault. Everything is seeded, so that a job ends
with the same items wherever and however often it was begun.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from prolip_search.engine import SearchEngine
from prolip_search.indexes import refresh
from prolip_search.indexes.store import INDEX_FOLDER, Store
from prolip_search.testing import FakeEncoder
from prolip_search.verification import VerifyReport, verify_index

DIM = 16
ENCODERS = [FakeEncoder(DIM), FakeEncoder(DIM, salt="another")]
BATCH_SIZE = 6  # photos per commit
LATER = range(100, 114)  # photos that come after the first run
TEXTS = ["red", "something green", "a caption about the sea"]
# What FORMAT.md says of an item that the encoder does not decide; row ids may differ between runs.
COLUMNS = (
    *("id", "kind", "path", "text", "size_bytes", "mtime_ns", "content_hash", "width", "height"),
    *("format", "folder", "uncertainty", "checksum"),
)


@dataclass(frozen=True)
class Job:
    """prepare: makes the library in an empty folder; run: the job. restless: photos of which the
    index may not know yet what became of them.
    """

    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    restless: frozenset[str] = frozenset()


def save_photo(folder: Path, number: int) -> None:
    """A small picture of colours of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number:03}.png")


def new_library(folder: Path, n_photos: int = 20, kind: str = "auto") -> SearchEngine:
    """A library with an index of its photos, one file that is no photo, and some texts."""
    for number in range(n_photos):
        save_photo(folder / "photos", number)
    (folder / "photos/letter.jpg").write_text("Dear diary")
    engine = SearchEngine.create(
        folder / INDEX_FOLDER,
        encoder=ENCODERS[0],
        index_kind=kind,  # type: ignore[arg-type]  # one of the two that are used here
    )
    engine.index(folder / "photos", batch_size=BATCH_SIZE)
    engine.add(TEXTS)
    engine.store.refresh_index()
    return engine


def opened(folder: Path) -> SearchEngine:
    """The library's index, with whichever encoder it was made."""
    store = Store.open(folder / INDEX_FOLDER)
    encoder = next(e for e in ENCODERS if e.fingerprint == store.encoder.fingerprint)
    return SearchEngine.open(folder / INDEX_FOLDER, encoder=encoder)


def change_photos(folder: Path) -> None:
    """What a person does to photos between two runs: RESTLESS are those that were there."""
    photos = folder / "photos"
    for number in LATER:
        save_photo(photos / "later", number)
    shutil.copy2(photos / "005.png", photos / "a copy.png")
    (photos / "later/empty.png").touch()
    (photos / "000.png").unlink()
    (photos / "001.png").rename(photos / "moved.png")
    Image.new("RGB", (9, 9), "purple").save(photos / "002.png")


RESTLESS = frozenset(f"photos/{name}.png" for name in ("000", "001", "002"))


def index(folder: Path) -> None:
    opened(folder).index(batch_size=BATCH_SIZE)


def delete(folder: Path) -> None:
    engine = opened(folder)
    with engine.store.writer():
        ids = sorted(engine.store.table(["id", "path"]).to_pylist(), key=lambda row: row["id"])
        for name in ("003", "004"):
            engine.remove([row["id"] for row in ids if row["path"] == f"photos/{name}.png"])
        engine.store.refresh_index()


def optimize(folder: Path) -> None:
    opened(folder).optimize()


def change_encoder(folder: Path) -> None:
    SearchEngine.rebuild(folder / INDEX_FOLDER, encoder=ENCODERS[1], batch_size=BATCH_SIZE)


@contextmanager
def any_base_has_a_tail() -> Iterator[None]:
    with patch.multiple(refresh, SMALL_BASE=1, FOLD_SHARE=0.9):
        yield


def grow(folder: Path) -> None:
    """An index of inverted lists gets a tail and a list of dead rows."""
    with any_base_has_a_tail():
        index(folder)


def fold(folder: Path) -> None:
    """The lists are made anew of base and tail."""
    opened(folder).store.refresh_index(fold=True)


def _prepare(folder: Path) -> None:
    new_library(folder)


def _prepare_changed(folder: Path) -> None:
    new_library(folder)
    change_photos(folder)


def _prepare_fragments(folder: Path) -> None:
    engine = new_library(folder)
    change_photos(folder)
    engine.index(batch_size=BATCH_SIZE)


def _prepare_lists(folder: Path) -> None:
    new_library(folder, 40, "ivf")
    change_photos(folder)


def prepare_tail(folder: Path) -> None:
    _prepare_lists(folder)
    grow(folder)


JOBS = {
    "index": Job(_prepare_changed, index, RESTLESS),
    "delete": Job(_prepare, delete),
    "optimize": Job(_prepare_fragments, optimize),
    "change_encoder": Job(_prepare, change_encoder),
    "grow": Job(_prepare_lists, grow, RESTLESS),
    "fold": Job(prepare_tail, fold),
}

State = dict[str, str]  # a digest of each item, by id


def state_of_rows(rows: list[dict[str, Any]]) -> State:
    """rows: with COLUMNS."""
    lines = {row["id"]: repr([row[name] for name in COLUMNS]) for row in rows}
    assert len(lines) == len(rows)
    return {id: hashlib.sha256(line.encode()).hexdigest()[:16] for id, line in lines.items()}


def state_of(folder: Path) -> State:
    """The items, as a reader sees them."""
    store = Store.open(folder / INDEX_FOLDER)
    table = store.table(list(COLUMNS))
    assert len(table) == store.count()
    return state_of_rows(table.to_pylist())


def committed_states(folder: Path) -> list[State]:
    """The items of every version of the table that is still there."""
    import lance

    store = Store.open(folder / INDEX_FOLDER)
    path = str(store.folder / store.manifest.items_table)
    versions = [entry["version"] for entry in lance.dataset(path).versions()]
    tables = [lance.dataset(path, version=v).to_table(columns=list(COLUMNS)) for v in versions]
    return [state_of_rows(table.to_pylist()) for table in tables]


def assert_ranks_as_brute_force(folder: Path) -> None:
    """Every item, in the order of its CSD as computed from the table itself."""
    import lance

    engine = opened(folder)
    store = engine.store
    path = str(store.folder / store.manifest.items_table)
    table = lance.dataset(path).to_table(columns=["id", "mean", "uncertainty"])
    mean = table["mean"].combine_chunks().flatten().to_numpy().reshape(-1, DIM).astype(np.float64)
    queries = engine.encoder.encode_texts(TEXTS)
    found = store.search(queries, len(table) + 3, kinds=("image", "text"))
    ids = np.array(table["id"].to_pylist())
    for query, rows in zip(queries.mean.astype(np.float64), found.row_id, strict=True):
        csd = np.square(mean - query).sum(1) + table["uncertainty"].to_numpy()
        order = np.lexsort((ids, csd))
        assert (rows >= 0).sum() == len(ids)
        assert store.rows(rows[rows >= 0], ["id"])["id"].to_pylist() == ids[order].tolist()


def verified(folder: Path) -> VerifyReport:
    return verify_index(folder / INDEX_FOLDER, lambda store: opened(folder).encoder)


def assert_nothing_is_lost(folder: Path, job: str, states: list[State]) -> VerifyReport:
    """What a job that was cut short may leave: one of `states`, the last of them what it ends
    with; nothing that verify complains of; and done again, it ends as ever. The first report.
    """
    assert state_of(folder) in states
    assert_ranks_as_brute_force(folder)
    found = verified(folder)
    assert {finding.path for finding in found.findings} <= JOBS[job].restless, found
    JOBS[job].run(folder)
    assert state_of(folder) == states[-1]
    assert_ranks_as_brute_force(folder)
    report = verified(folder)
    assert (report.findings, report.leftovers, report.notes) == ((), (), ())
    assert (folder / INDEX_FOLDER / "writer.lock").read_bytes() == b""
    return found
