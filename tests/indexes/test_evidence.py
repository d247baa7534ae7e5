"""The reference sample and the nearest thousand, against what a plain computation over all items
gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.distances import csd
from prolip_search.gaussians import Gaussians
from prolip_search.indexes import evidence as evidence_module
from prolip_search.indexes import reference, refresh
from prolip_search.indexes.evidence import Evidence
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.reference import content_keys, n_distinct, smallest
from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import filled_store, items

N, SAMPLE, NEAREST = 300, 40, 50


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a few hundred items have something beyond the nearest and the sample."""
    monkeypatch.setattr(reference, "SAMPLE_SIZE", SAMPLE)
    monkeypatch.setattr(reference.smallest, "__defaults__", (SAMPLE,))
    monkeypatch.setattr(evidence_module, "N_NEAREST", NEAREST)
    monkeypatch.setattr(refresh, "SMALL_BASE", 100)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled_store(tmp_path, n=N)


def everything(store: Store, **only: Any) -> tuple[list[str], list[str], Gaussians]:
    """Ids, contents and Gaussians of all images, in no order."""
    table = store.table(["row_id", "id", "content_hash", "kind"])
    table = table.filter(pa.compute.equal(table["kind"], "image"))
    gaussians = store.gaussians(table["row_id"].to_numpy())
    return table["id"].to_pylist(), table["content_hash"].to_pylist(), gaussians


def assert_is_right(
    store: Store, queries: Gaussians, found: Evidence | None, *, without: str | None = None
) -> None:
    """The evidence is that of all images but `without`, by definition."""
    assert found is not None
    ids, contents, gaussians = everything(store)
    chosen = [i for i, content in enumerate(contents) if content != without]
    distances = csd(queries, gaussians[np.array(chosen)])
    contents = [contents[i] for i in chosen]
    assert found.n_items == len(set(contents))
    keys = content_keys([ids[i] for i in chosen], contents)
    by_key = dict(zip(keys.tolist(), contents, strict=True))
    expected = [by_key[key] for key in sorted(by_key)[: found.reference.shape[1]]]
    assert found.reference.shape[1] in (len(expected), SAMPLE - 1)
    for q in range(len(queries)):
        order = np.argsort(distances[q], kind="stable")
        n = found.nearest.shape[1]
        assert n == min(NEAREST, len(order))
        np.testing.assert_allclose(found.nearest[q], distances[q, order[:n]], atol=1e-5)
        row_ids = store._view().rows.row_ids(found.sampled[q])
        sampled = store.rows(row_ids, ["content_hash"])["content_hash"].to_pylist()
        assert sorted(sampled) == sorted(expected)
        at = {content: distances[q, i] for i, content in enumerate(contents)}
        np.testing.assert_allclose(found.reference[q], [at[c] for c in sampled], atol=1e-5)
        near = [contents[i] for i in order[:n]]
        assert found.beyond[q].tolist() == [content not in near for content in sampled]
        repeats = [content in near[:i] for i, content in enumerate(near)]
        assert (np.zeros(n) if found.repeats is None else found.repeats[q]).tolist() == repeats


def evidence_of(store: Store, queries: Gaussians, **options: Any) -> Evidence | None:
    return store.search_with_evidence(queries, 3, **options)[1]


def test_evidence_is_what_its_definition_says(store: Store) -> None:
    queries = make_gaussians(4, 8, 7)
    assert_is_right(store, queries, evidence_of(store, queries))


def test_the_search_itself_is_the_same(store: Store) -> None:
    queries = make_gaussians(9, 8, 7)
    for rank_by in ("csd", "cosine", "membership"):
        for offset in (0, 5, N - 1, N + 5):
            with_it, _ = store.search_with_evidence(queries, 10, rank_by=rank_by, offset=offset)  # type: ignore[arg-type]
            alone = store.search(queries, 10, rank_by=rank_by, offset=offset)  # type: ignore[arg-type]
            assert np.array_equal(with_it.row_id, alone.row_id)
            assert np.array_equal(with_it.csd, alone.csd)


def test_evidence_does_not_depend_on_k_ranking_page_or_batch(store: Store) -> None:
    queries = make_gaussians(12, 8, 7)
    whole = evidence_of(store, queries)
    assert whole is not None
    for options in ({"k": 200}, {"offset": 250}, {"rank_by": "cosine"}, {"rank_by": "membership"}):
        _, found = store.search_with_evidence(queries, **({"k": 3} | options))  # type: ignore[arg-type]
        assert found is not None
        np.testing.assert_allclose(found.nearest, whole.nearest, atol=1e-6)
        np.testing.assert_array_equal(found.reference, whole.reference)
        np.testing.assert_array_equal(found.beyond, whole.beyond)
    for q in range(12):
        alone = evidence_of(store, queries[q])
        assert alone is not None
        np.testing.assert_allclose(alone.nearest[0], whole.nearest[q], atol=1e-6)
        np.testing.assert_allclose(alone.reference[0], whole.reference[q], atol=1e-6)


def test_the_order_in_which_items_came_does_not_matter(store: Store, tmp_path: Path) -> None:
    table = store.table(["id", "kind", "path", "content_hash", "mean", "log_variance"])
    other = Store.create(tmp_path / "other" / ".prolip-search", encoder=store.encoder)
    other.append(table.take(np.random.default_rng(0).permutation(len(table))))
    other.refresh_index()
    queries = make_gaussians(2, 8, 7)
    first, second = evidence_of(store, queries), evidence_of(other, queries)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.reference, second.reference)
    np.testing.assert_allclose(first.nearest, second.nearest, atol=1e-6)


@pytest.mark.parametrize("refreshed", [True, False])
def test_tails_deletions_and_texts_are_honoured(store: Store, refreshed: bool) -> None:
    store.append(items(make_gaussians(9, 8, 1), ids=[f"new-{n}" for n in range(9)]))
    store.append(items(make_gaussians(3, 8, 2), ids=["x", "y", "z"], kind="text"))
    sampled = store._view().rows.row_ids(store_sample(store)[:2])
    gone = store.rows(sampled, ["id"])["id"].to_pylist()
    store.delete([*gone, "new-3"])
    if refreshed:
        store.refresh_index()
        assert len(list(store.folder.glob("*.reference"))) == 2
    queries = make_gaussians(5, 8, 7)
    opened = Store.open(store.folder)
    assert_is_right(opened, queries, evidence_of(opened, queries))


def store_sample(store: Store) -> Any:
    found = evidence_of(store, make_gaussians(1, 8, 0))
    assert found is not None
    return found.sampled[0]


@pytest.mark.parametrize("refreshed", [True, False])
def test_copies_count_once(store: Store, refreshed: bool) -> None:
    table = store.table(["id", "kind", "content_hash", "mean", "log_variance"])
    copies = table.take(list(range(0, N, 3)))
    names = pa.array([f"copy of {name}" for name in copies["id"].to_pylist()])
    store.append(copies.set_column(0, "id", names))
    if refreshed:
        store.refresh_index()
    queries = make_gaussians(5, 8, 7)
    assert_is_right(store, queries, evidence_of(store, queries))


def test_a_filter_narrows_the_collection_that_is_sampled(store: Store) -> None:
    queries = make_gaussians(5, 8, 7)
    for where in (Filter(where="size_bytes < 90"), Filter(where="size_bytes >= 20")):
        found = evidence_of(store, queries, where=where)
        passing = store.table(["id", "size_bytes"]).filter(pa.compute.field("size_bytes") >= 0)
        kept = [
            row["id"]
            for row in passing.to_pylist()
            if (row["size_bytes"] < 90) == ("<" in (where.where or "")) or row["size_bytes"] < 0
        ]
        kept = kept if "<" in (where.where or "") else [f"item-{n}" for n in range(20, N)]
        assert found is not None
        assert found.n_items == len(kept)
        row_ids = store._view().rows.row_ids(found.sampled[0])
        sampled = store.rows(row_ids, ["id"])["id"].to_pylist()
        keys = content_keys(kept, [f"hash of {name}" for name in kept])
        assert sampled == [kept[i] for i in np.argsort(keys)[:SAMPLE]]
    assert evidence_of(store, queries, where=Filter(where="size_bytes < 0")) is None
    assert len(store.search(queries, 3, where=Filter(where="size_bytes < 90")).row_id) == 5


def test_a_filter_that_leaves_a_handful_keeps_the_background_of_all(store: Store) -> None:
    queries = make_gaussians(5, 8, 7)
    whole = evidence_of(store, queries)
    found = evidence_of(store, queries, where=Filter(where="size_bytes < 30"))
    assert found is not None
    assert whole is not None
    np.testing.assert_array_equal(found.reference, whole.reference)
    assert not found.beyond.any()
    assert (found.n_items, found.nearest.shape) == (30, (5, 30))
    items = store.gaussians([store.row_of(f"item-{n}") for n in range(30)])
    np.testing.assert_allclose(found.nearest, np.sort(csd(queries, items), axis=1), atol=1e-5)


def test_an_item_that_asks_is_left_out(store: Store) -> None:
    sampled = store._view().rows.row_ids(store_sample(store))
    elsewhere = next(i for i in range(N) if store.row_of(f"item-{i}") not in sampled.tolist())
    for row in (int(sampled[0]), int(sampled[-1]), store.row_of(f"item-{elsewhere}")):
        assert row is not None
        query = store.gaussians([row])
        content = store.rows([row], ["content_hash"])["content_hash"][0].as_py()
        found = evidence_of(store, query, itself=[row])
        assert_is_right(store, query, found, without=content)


def test_a_collection_of_the_item_alone_tells_nothing(tmp_path: Path) -> None:
    store = filled_store(tmp_path, n=1)
    row = store.row_of("item-0")
    assert row is not None
    assert evidence_of(store, store.gaussians([row]), itself=[row]) is None
    assert evidence_of(store, store.gaussians([row])) is not None
    store.delete(["item-0"])
    assert evidence_of(store, make_gaussians(1, 8, 0)) is None


def test_an_approximate_index_gives_the_nearest_exactly_and_its_search_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled_store(tmp_path, n=3000)
    store.configure(IndexSettings(kind="ivf", recall=0.9))
    store.refresh_index()
    assert store.index_facts.kind == "ivf"
    queries = make_gaussians(10, 8, 7)
    hits, found = store.search_with_evidence(queries, 10)
    alone = store.search(queries, 10)
    assert np.array_equal(hits.row_id, alone.row_id)
    assert found is not None
    again = evidence_of(store, queries)
    assert again is not None
    np.testing.assert_array_equal(found.nearest, again.nearest)
    means = store.gaussians(store._view().rows.row_ids(found.positions[0]))
    np.testing.assert_allclose(found.nearest[0], csd(queries[0], means)[0], atol=1e-5)


def test_a_store_of_before_gets_its_sample_with_the_next_refresh(store: Store) -> None:
    import json

    path = store.folder / "csd.json"
    pointer = json.loads(path.read_text())
    described = pointer["parts"][0].pop("reference")
    del pointer["checksum"]
    path.write_text(json.dumps(pointer))
    (store.folder / described["file"]).unlink()
    queries = make_gaussians(3, 8, 7)
    old = Store.open(store.folder)
    assert old.derived_state == "current"
    assert_is_right(old, queries, evidence_of(old, queries))
    base = {p.name: p.stat().st_mtime_ns for p in store.folder.glob("csd-*.vectors")}
    old.refresh_index()
    assert {p.name: p.stat().st_mtime_ns for p in store.folder.glob("csd-*.vectors")} == base
    assert json.loads(path.read_text())["parts"][0]["reference"]["n_sampled"] == SAMPLE
    assert_is_right(Store.open(store.folder), queries, evidence_of(store, queries))


@pytest.mark.parametrize("at", [3, -3])
def test_damage_is_found_and_changes_nothing(store: Store, at: int) -> None:
    path = next(store.folder.glob("*.reference"))
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    queries = make_gaussians(3, 8, 7)
    opened = Store.open(store.folder)
    opened.append(items(make_gaussians(1, 8, 1), ids=["new"]))  # so that keys are read as well
    assert_is_right(opened, queries, evidence_of(opened, queries))
    assert opened.derived_state == "damaged"
    opened.optimize()
    Store.open(store.folder).check_derived()


@given(
    keys=st.lists(st.integers(0, 30), max_size=200), n=st.integers(1, 12), start=st.integers(0, 5)
)
def test_the_smallest_keys_are_taken_each_once(keys: list[int], n: int, start: int) -> None:
    array = np.array(keys, np.uint64)
    found = smallest(array, np.arange(len(keys)) + start, n) - start
    assert array[found].tolist() == sorted(set(keys))[:n]
    assert [keys.index(key) for key in sorted(set(keys))[:n]] == found.tolist()
    assert n_distinct(array) == len(set(keys))
