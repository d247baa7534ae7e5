"""Growing and shrinking: a tail beside the base, folded in now and then, and optimize."""

from __future__ import annotations

import shutil
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from prolip_search.indexes import mapped_rows, refresh, snapshot
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.snapshot import read_snapshot
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, filled_store, hit_ids, items, record

N = 400


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of N images whose base may have a tail of up to 20."""
    monkeypatch.setattr(refresh, "SMALL_BASE", 100)
    return filled_store(tmp_path, n=N)


def n_rows_of_parts(store: Store) -> list[int]:
    found = read_snapshot(store.folder, items_table=store.manifest.items_table, dim=8)
    assert found is not None
    return [len(part.rows) for part in found.parts]


def assert_same_as_a_fresh_store(store: Store, tmp_path: Path) -> None:
    """Answers as a store does that was made of the same items at once."""
    table = store.table(["id", "path", "mtime_ns", "mean", "log_variance"]).sort_by("id")
    fresh = Store.create(tmp_path / "fresh" / INDEX_FOLDER, encoder=record())
    fresh.append(table.append_column("kind", pa.array(["image"] * len(table))))
    queries = make_gaussians(4, 8, 123)
    expected = hit_ids(fresh, queries, 30)
    for opened in (store, Store.open(store.folder)):
        assert hit_ids(opened, queries, 30) == expected
        assert opened.count() == len(table)
    shutil.rmtree(tmp_path / "fresh")


def test_what_is_appended_goes_into_a_tail_and_the_base_is_not_written_again(
    store: Store, tmp_path: Path
) -> None:
    base = {p.name: p.stat().st_mtime_ns for p in store.folder.glob("csd-*")}
    for turn in range(4):
        store.append(items(make_gaussians(5, 8, turn), ids=[f"{turn}-{n}" for n in range(5)]))
        store.refresh_index()
        assert Store.open(store.folder).derived_state == "current"
        assert n_rows_of_parts(store) == [N, 5 * (turn + 1)]
    now = {p.name: p.stat().st_mtime_ns for p in store.folder.glob("csd-*")}
    assert base.items() <= now.items()
    assert_same_as_a_fresh_store(store, tmp_path)
    store.append(items(make_gaussians(1, 8, 50), ids=["one too many"]))
    store.refresh_index()
    assert n_rows_of_parts(store) == [N + 21]
    assert_same_as_a_fresh_store(store, tmp_path)


def test_deleted_moved_and_appended_items_together(store: Store, tmp_path: Path) -> None:
    store.append(items(make_gaussians(4, 8, 1), ids=["a", "b", "c", "d"]))
    store.refresh_index()
    store.delete(["item-3", "b"])
    moved = {"id": ["item-9", "c"], "path": ["9", "c"], "mtime_ns": [1, 2]}
    store.move(pa.table(moved))
    for refreshed in (False, True, True):
        if refreshed:
            store.refresh_index()
        opened = Store.open(store.folder)
        assert opened.row_of("item-3") is None
        assert opened.row_of("b") is None
        assert opened.row_of_path("9") == opened.row_of("item-9")
        assert opened.count() == N + 2
        assert_same_as_a_fresh_store(opened, tmp_path)
    assert n_rows_of_parts(store) == [N, 4]
    assert opened.index_facts.n_dead == 2
    assert opened.index_facts.n_tail == 4


def test_deletions_alone_need_no_tail(store: Store, tmp_path: Path) -> None:
    store.delete(["item-1", "item-2"])
    store.refresh_index()
    assert n_rows_of_parts(store) == [N]
    assert_same_as_a_fresh_store(Store.open(store.folder), tmp_path)
    store.delete([f"item-{n}" for n in range(3, 40)])
    store.refresh_index()
    assert n_rows_of_parts(store) == [N - 39]
    assert not list(store.folder.glob("*.dead"))


def test_deleting_everything_leaves_an_index_that_works(store: Store) -> None:
    store.delete([f"item-{n}" for n in range(N)])
    store.refresh_index()
    opened = Store.open(store.folder)
    assert opened.count() == 0
    assert (opened.search(make_gaussians(1, 8, 0), 3).row_id == -1).all()
    store.append(items(make_gaussians(2, 8, 1), ids=["x", "y"]))
    store.optimize()
    assert Store.open(store.folder).count() == 2


def test_optimize_joins_fragments_drops_old_versions_and_keeps_row_ids(
    store: Store, tmp_path: Path
) -> None:
    for turn in range(5):
        store.append(items(make_gaussians(3, 8, turn), ids=[f"{turn}-{n}" for n in range(3)]))
    store.delete(["item-5", "2-1"])
    store.move(pa.table({"id": ["item-8"], "path": ["8"], "mtime_ns": [1]}))
    store.refresh_index()
    names = store.table(["id"])["id"].to_pylist()
    rows = {name: store.row_of(name) for name in names}
    reader = Store.open(store.folder)
    before = hit_ids(reader, make_gaussians(3, 8, 5), 20)
    store.optimize()
    table = lance.dataset(str(store.folder / f"items-{FINGERPRINT[:8]}.lance"))
    assert len(table.get_fragments()) == 1
    assert len(table.versions()) == 1
    assert sum(f.num_deletions for f in table.get_fragments()) == 0
    assert n_rows_of_parts(store) == [N + 13]
    opened = Store.open(store.folder)
    assert opened.derived_state == "current"
    assert {name: opened.row_of(name) for name in names} == rows
    assert hit_ids(opened, make_gaussians(3, 8, 5), 20) == before
    assert hit_ids(reader, make_gaussians(3, 8, 5), 20) == before  # it keeps what it had
    assert_same_as_a_fresh_store(opened, tmp_path)


def test_optimize_twice_is_optimize_once(store: Store) -> None:
    store.optimize()
    version = store.version
    store.optimize()
    assert store.version == version
    assert Store.open(store.folder).derived_state == "current"


def test_optimize_heals_damage_that_no_query_has_met(store: Store) -> None:
    path = next(store.folder.glob("*.vectors"))
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    assert Store.open(store.folder).derived_state == "current"  # not looked at yet
    store.optimize()
    opened = Store.open(store.folder)
    opened.check_derived()
    assert opened.derived_state == "current"


@pytest.mark.parametrize("suffix", ["vectors", "arrow", "faiss", "dead"])
def test_damage_in_any_file_of_base_or_tail_changes_no_answer(
    store: Store, tmp_path: Path, suffix: str
) -> None:
    store.append(items(make_gaussians(4, 8, 1), ids=["a", "b", "c", "d"]))
    store.delete(["item-3"])
    store.refresh_index()
    queries = make_gaussians(3, 8, 5)
    ids = hit_ids(store, queries, 40)
    everything = store.table(["id", "path", "mtime_ns", "text"]).sort_by("id")
    rng = np.random.default_rng(0)
    paths = list(store.folder.glob(f"*.{suffix}"))
    assert len(paths) == (1 if suffix == "dead" else 2)
    for path in paths:
        content = path.read_bytes()
        for at in rng.integers(0, len(content), 15):
            damaged = bytearray(content)
            damaged[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            opened = Store.open(store.folder)
            assert hit_ids(opened, queries, 40) == ids
            table = opened.table(["id", "path", "mtime_ns", "text"]).sort_by("id")
            assert table.equals(everything)
        path.write_bytes(content)


def test_rows_are_written_as_a_stream_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_rows, "ROWS_PER_BATCH", 64)
    monkeypatch.setattr(mapped_rows, "BLOCK_BYTES", 256)
    store = filled_store(tmp_path, n=0)
    gaussians = make_gaussians(150, 8, 3)
    rows = items(gaussians)
    for start, stop in ((0, 1), (1, 70), (70, 150)):
        store.append(rows.slice(start, stop - start))
    store.refresh_index()
    opened = Store.open(store.folder)
    at = [opened.row_of(f"item-{n}") for n in (149, 0, 63, 64, 65, 128)]
    np.testing.assert_array_equal(
        opened.gaussians(at).mean, gaussians.mean[[149, 0, 63, 64, 65, 128]]
    )
    assert opened.table(["id"])["id"].to_pylist() == rows["id"].to_pylist()
    table = opened.table(["mean", "id", "row_id"])
    assert table.column_names == ["mean", "id", "row_id"]
    np.testing.assert_array_equal(
        table["mean"].combine_chunks().flatten().to_numpy().reshape(-1, 8), gaussians.mean
    )
    opened.check_derived()


def test_a_rebuild_keeps_how_the_index_is_to_be_made(tmp_path: Path) -> None:
    settings = IndexSettings(kind="ivf", recall=0.9)
    store = Store.create(tmp_path / INDEX_FOLDER, encoder=record(), index=settings)
    staged = Store.rebuild(store.folder, encoder=record(fingerprint="f" * 64))
    staged.append(items(make_gaussians(100, 8, 1)))
    staged.publish()
    opened = Store.open(store.folder)
    assert opened.manifest.index == settings
    assert opened.index_facts.kind == "ivf"


def test_a_manifest_without_index_settings_has_the_defaults(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    path = store.folder / "manifest.json"
    lines = path.read_text().replace('"index"', '"something_else"')
    path.write_text(lines.replace('"checksum"', '"another_thing"'))
    assert Store.open(store.folder).manifest.index == IndexSettings()
    assert snapshot.wanted_kind(IndexSettings(), snapshot.FLAT_UP_TO + 1) == "ivf"
