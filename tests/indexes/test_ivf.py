"""Inverted lists: exact distances, the recall that was asked for, nothing that is not there."""

from __future__ import annotations

import itertools
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prolip_search.gaussians import Gaussians
from prolip_search.indexes import ivf_index, snapshot
from prolip_search.indexes.blocks import DerivedDamage
from prolip_search.indexes.csd_index import augmented_queries
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.indexes.building import items, record

DIM, N = 16, 4000
IVF = IndexSettings(kind="ivf")


def clustered(n: int, seed: int, spread: tuple[float, float] = (-8, -3)) -> Gaussians:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(40, DIM))
    means = centres[rng.integers(40, size=n)] + 0.5 * rng.normal(size=(n, DIM))
    return Gaussians.from_raw(means, rng.uniform(*spread, size=(n, DIM)))


def ivf_store(parent: Path, gaussians: Gaussians, settings: IndexSettings = IVF) -> Store:
    store = Store.create(parent / INDEX_FOLDER, encoder=record(DIM), index=settings)
    store.append(items(gaussians))
    store.refresh_index()
    return Store.open(store.folder)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ivf_store(tmp_path_factory.mktemp("ivf"), clustered(N, 1)).folder


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    shutil.copytree(pristine, tmp_path / INDEX_FOLDER)
    return Store.open(tmp_path / INDEX_FOLDER)


def true_csd(queries: Gaussians, stored: Gaussians) -> np.ndarray:  # type: ignore[type-arg]
    delta = queries.mean[:, None].astype(np.float64) - stored.mean
    return (  # type: ignore[no-any-return]  # NumPy
        (delta * delta).sum(-1) + queries.uncertainty[:, None] + stored.uncertainty
    )


def recall_at_10(store: Store, queries: Gaussians, stored: Gaussians) -> float:
    best = true_csd(queries, stored).argsort(1)[:, :10]
    found = store.search(queries, 10).row_id
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(best, found, strict=True)]))


def test_large_collections_get_lists_and_small_ones_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "FLAT_UP_TO", 1000)
    small = ivf_store(tmp_path / "small", clustered(1000, 1), IndexSettings())
    large = ivf_store(tmp_path / "large", clustered(1001, 1), IndexSettings())
    assert (small.index_facts.kind, small.index_facts.recall) == ("flat", None)
    assert large.index_facts.kind == "ivf"
    assert large.index_facts.recall is not None


@pytest.mark.parametrize("recall", [0.95, 0.99])
@pytest.mark.parametrize("spread", [(-12, -8), (-5, -2.5)])
def test_the_recall_that_was_asked_for_is_met(
    tmp_path: Path, recall: float, spread: tuple[float, float]
) -> None:
    stored = clustered(N, 1, spread)
    store = ivf_store(tmp_path, stored, IndexSettings(kind="ivf", recall=recall))
    measured = store.index_facts.recall
    assert measured is not None
    assert measured >= recall
    assert recall_at_10(store, clustered(200, 2, spread), stored) >= recall


def test_distances_are_exact_and_best_first(store: Store) -> None:
    stored, queries = clustered(N, 1), clustered(20, 3)
    hits = store.search(queries, 10)
    truth = true_csd(queries, stored)
    row_of = {row: at for at, row in enumerate(store._view().rows.row_ids(np.arange(N)))}
    for query in range(len(queries)):
        at = [row_of[row] for row in hits.row_id[query]]
        np.testing.assert_array_equal(hits.csd[query], truth[query, at].astype(np.float32))
    assert (np.diff(hits.csd) >= 0).all()


def test_a_single_query_and_a_batch_find_the_same(store: Store) -> None:
    queries = clustered(40, 3)
    together = store.search(queries, 10)
    for row in range(len(queries)):
        np.testing.assert_array_equal(
            store.search(queries[row], 10).row_id[0], together.row_id[row]
        )


def test_as_many_results_come_back_as_were_asked_for_and_exist(store: Store) -> None:
    hits = store.search(clustered(3, 4), N + 5)
    assert (hits.row_id[:, :N] >= 0).all()
    assert (hits.row_id[:, N:] == -1).all()
    assert len(np.unique(hits.row_id[0, :N])) == N


def test_a_filter_still_gives_k_results(store: Store) -> None:
    view = store._view()
    rng = np.random.default_rng(0)
    for share in (0.002, 0.08, 0.5):
        mask = rng.random(N) < share
        view._allowed.clear()
        view._allowed[frozenset({"image"})] = mask
        hits = store.search(clustered(5, 4), 5)
        at = view.positions(hits.row_id.ravel())
        assert mask[at].all()
    view._allowed.clear()


def test_a_tail_is_found_beside_the_lists(store: Store) -> None:
    late = clustered(30, 9)
    store.append(items(late, ids=[f"late-{n}" for n in range(30)]))
    for refreshed in (False, True):
        if refreshed:
            store.refresh_index()
        found = store.search(late, 1, rank_by="cosine").row_id[:, 0]
        ids = store.rows(found, ["id"])["id"].to_pylist()
        assert ids == [f"late-{n}" for n in range(30)]


@settings(deadline=None, max_examples=12)
@given(st.data())
def test_a_deleted_item_is_never_found_and_every_distance_is_true(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    n = data.draw(st.integers(60, 400))
    stored = clustered(n, data.draw(st.integers(0, 50)))
    store = ivf_store(tmp_path_factory.mktemp("drawn"), stored)
    dead = set(data.draw(st.lists(st.integers(0, n - 1), max_size=40)))
    store.delete([f"item-{number}" for number in sorted(dead)])
    if data.draw(st.booleans()):
        store.refresh_index()
        store = Store.open(store.folder)
    queries = clustered(4, 77)
    hits = store.search(queries, data.draw(st.integers(1, 60)))
    truth = true_csd(queries, stored)
    for query in range(4):
        rows = hits.row_id[query][hits.row_id[query] >= 0]
        names = store.rows(rows, ["id"])["id"].to_pylist()
        at = [int(name.removeprefix("item-")) for name in names]
        assert not dead & set(at)
        assert len(at) == min(hits.row_id.shape[1], n - len(dead))
        np.testing.assert_array_equal(hits.csd[query][: len(at)], truth[query, at].astype("f4"))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_in_the_lists_is_no_wrong_answer(
    store: Store, pristine: Path
) -> None:
    path = next(store.folder.glob("*.ivf"))
    content = path.read_bytes()
    queries = clustered(4, 5)
    flat = Store.open(pristine)
    expected = flat.search(queries, 10)
    truth = np.sort(true_csd(queries, clustered(N, 1)), axis=1)[:, :10].astype("f4")
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(content), 30), len(content) - 1, len(content) - 5000]
    n_damaged = 0
    for at in places:
        path.write_bytes(content)
        flip(path, int(at))
        opened = Store.open(store.folder)
        hits = opened.search(queries, 10)
        if opened.derived_state == "damaged":
            np.testing.assert_array_equal(hits.csd, truth)
            n_damaged += 1
        else:  # in a list that these queries do not come to
            np.testing.assert_array_equal(hits.row_id, expected.row_id)
            with pytest.raises(Exception, match="prolip-search optimize"):
                opened.check_derived()
    assert n_damaged > 0


def test_forged_lists_never_lead_faiss_astray(store: Store) -> None:
    """The checksums are made to agree, so only the checks of the content stand in the way."""
    path = next(store.folder.glob("*.ivf"))
    pointer = json.loads((store.folder / "csd.json").read_text())
    facts = pointer["parts"][0]["index"]
    content = bytearray(path.read_bytes())
    width, n_lists = 24, facts["n_lists"]
    at = N * (width + 8)
    rng = np.random.default_rng(1)
    for _ in range(60):
        forged = bytearray(content)
        if rng.random() < 0.5:  # in the head: sizes, centres, ranges
            for place in rng.integers(at, at + 32 + n_lists * 8 + 200, 3):
                forged[place] = int(rng.integers(256))
        else:  # in the lists: codes and row numbers
            for place in rng.integers(0, at, 400):
                forged[place] = int(rng.integers(256))
        sizes = np.frombuffer(bytes(content), "<i8", n_lists, at + 32)
        starts = np.concatenate([[0], np.cumsum(sizes)]) * (width + 8)
        crcs = [zlib.crc32(forged[a:b]) for a, b in itertools.pairwise(starts)]
        forged[-4 * n_lists :] = np.array(crcs, "<u4").tobytes()
        path.write_bytes(forged)
        facts["head_crc32"] = zlib.crc32(bytes(forged[at:]))
        (store.folder / "csd.json").write_text(json.dumps(pointer))
        hits = Store.open(store.folder).search(clustered(3, 5), 10)
        assert (hits.row_id < N).all()


def test_a_kind_or_recall_asked_for_later_is_made_by_the_next_refresh(store: Store) -> None:
    store.configure(IndexSettings(kind="flat"))
    store.refresh_index()
    assert Store.open(store.folder).index_facts.kind == "flat"
    store.configure(IndexSettings(kind="ivf", recall=0.99))
    store.refresh_index()
    opened = Store.open(store.folder)
    assert opened.index_facts.kind == "ivf"
    assert opened.manifest.index.recall == 0.99
    assert not list(store.folder.glob("*.faiss"))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_a_mask_gives_the_same_the_first_time_and_when_it_is_used_again(
    store: Store, share: float
) -> None:
    index = store._view().parts[0].index
    assert isinstance(index, ivf_index.IvfIndex)
    rng = np.random.default_rng(5)
    queries = augmented_queries(clustered(12, 3).mean, with_uncertainty=True)
    before: set[int] = set()
    for _ in range(2):  # two masks, one after the other
        mask = rng.random(N) < share
        one_by_one = index._scan(index._index, queries, 20, index.n_probes, mask)
        for _ in range(3):
            found = [index.search(queries[at : at + 1], 20, mask)[1][0] for at in range(12)]
            np.testing.assert_array_equal(found, one_by_one[1])
        scores, rows = index.search(queries, 20, mask.copy())
        np.testing.assert_array_equal(rows, one_by_one[1])
        np.testing.assert_allclose(scores[rows >= 0], one_by_one[0][rows >= 0], rtol=1e-5)
        assert mask[rows[rows >= 0]].all()
        assert before != set(rows.ravel().tolist())
        before = set(rows.ravel().tolist())
    assert index._last is not None
    assert (index._last.index is not None) == (share < 0.25)


def test_a_mask_that_hides_what_is_near_gives_what_is_farther(store: Store) -> None:
    index = store._view().parts[0].index
    assert isinstance(index, ivf_index.IvfIndex)
    query = augmented_queries(clustered(1, 3).mean, with_uncertainty=True)
    near = index.search(query, 300, None)[1][0]
    mask = np.ones(N, np.bool_)
    mask[near] = False  # most pass, and yet none of those that come first
    rows = index.search(query, 20, mask, widen=1e9)[1][0]
    assert mask[rows].all()
    assert len(set(rows.tolist())) == 20


def test_damage_in_a_list_that_no_query_came_to_is_found_before_it_is_copied(store: Store) -> None:
    path = next(store.folder.glob("*.ivf"))
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    index = Store.open(store.folder)._view().parts[0].index
    queries = augmented_queries(clustered(12, 3).mean, with_uncertainty=True)
    with pytest.raises(DerivedDamage):
        index.search(queries, 5, np.arange(N) % 10 == 0)


def test_texts_and_images_are_found_by_kind(tmp_path: Path) -> None:
    store = Store.create(tmp_path / INDEX_FOLDER, encoder=record(DIM), index=IVF)
    store.append(items(clustered(800, 1)))
    store.append(items(clustered(300, 2), ids=[f"t{n}" for n in range(300)], kind="text"))
    store.refresh_index()
    opened = Store.open(store.folder)
    for kind, letter in (("image", "i"), ("text", "t")):
        hits = opened.search(clustered(3, 4), 7, kinds=(kind,))
        ids = opened.rows(hits.row_id.ravel(), ["id"])["id"].to_pylist()
        assert {name[0] for name in ids} == {letter}
    pointer = json.loads((store.folder / "csd.json").read_text())
    assert set(pointer["parts"][0]["index"]["recall"]) == {"same", "near", "far", "texts"}


def test_rows_that_cannot_be_told_apart_by_eight_bits_are_still_found(tmp_path: Path) -> None:
    """Neighbours far closer to each other than a code's step: a wider margin, or every row."""
    rng = np.random.default_rng(0)
    means = np.repeat(rng.normal(size=(4, DIM)), 250, axis=0)
    raw = means + 2e-2 * rng.normal(size=means.shape)
    stored = Gaussians.from_raw(raw, np.full(means.shape, -9.0))
    store = ivf_store(tmp_path, stored, IndexSettings(kind="ivf", recall=0.99))
    queries = Gaussians.from_raw(
        raw[::40] + 2e-3 * rng.normal(size=(25, DIM)), np.full((25, DIM), -9.0)
    )
    assert recall_at_10(store, queries, stored) >= 0.95


def test_many_equal_items_are_no_reason_to_compare_every_row(tmp_path: Path) -> None:
    stored = clustered(50, 1)[np.arange(2000) % 50]
    store = ivf_store(tmp_path, stored)
    assert store.index_facts.kind == "ivf"
    hits = store.search(stored[:3], 40, rank_by="cosine")
    names = store.rows(hits.row_id[2], ["id"])["id"].to_pylist()
    assert len(names) == 40


def test_a_moved_item_is_found_at_its_new_path_by_its_old_row_id(store: Store) -> None:
    row = store.row_of("item-7")
    store.move(pa.table({"id": ["item-7"], "path": ["n/7.jpg"], "mtime_ns": [9]}))
    store.refresh_index()
    opened = Store.open(store.folder)
    assert opened.derived_state == "current"
    assert opened.row_of_path("n/7.jpg") == row
    assert opened.row_of_path("item-7.jpg") is None
    query = opened.gaussians([row])
    assert opened.search(query, 1, rank_by="cosine").row_id[0, 0] == row
