from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from prolip_search.errors import (
    DimensionMismatch,
    EncoderMismatch,
    IndexDamaged,
    IndexExists,
    IndexNotFound,
    InvalidGaussians,
    ItemNotFound,
    QueryError,
)
from prolip_search.indexes.reader import FILE_COLUMNS
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, filled_store, hit_ids, items, new_store, record

STRANGE_PATHS = [
    "it's here.jpg",
    'say "cheese".jpg',
    "two\nlines.jpg",
    "back\\slash.jpg",
    "Ærøskøbing/日本/🐶.jpg",
    "100% -- ; drop table.jpg",
    " ",
]


def test_a_created_store_opens_with_the_same_encoder_and_no_items(tmp_path: Path) -> None:
    made = new_store(tmp_path)
    opened = Store.open(tmp_path / INDEX_FOLDER)
    assert opened.encoder == made.encoder == record()
    assert opened.root == tmp_path
    assert opened.count() == 0
    assert opened.files().column_names == list(FILE_COLUMNS)


def test_an_empty_store_finds_nothing_and_pads(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for refreshed in (False, True):
        if refreshed:
            store.refresh_index()
        for rank_by in ("csd", "cosine", "membership"):
            hits = store.search(make_gaussians(2, 8, 1), 3, rank_by=rank_by)
            assert (hits.row_id == -1).all()
            assert np.isposinf(hits.csd).all()


def test_creating_over_an_index_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    filled_store(tmp_path)
    with pytest.raises(IndexExists, match="prolip-search index"):
        new_store(tmp_path)
    assert Store.open(tmp_path / INDEX_FOLDER).count() == 20


def test_creating_over_the_leavings_of_a_killed_create_succeeds(tmp_path: Path) -> None:
    table = tmp_path / INDEX_FOLDER / f"items-{FINGERPRINT[:8]}.lance"
    (table / "data").mkdir(parents=True)
    (table / "data" / "half.lance").write_bytes(b"half")
    assert new_store(tmp_path).count() == 0


def test_creating_where_items_lost_their_manifest_is_refused(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    (store.folder / "manifest.json").unlink()
    with pytest.raises(IndexDamaged, match="holds items"):
        new_store(tmp_path)


def test_opening_where_there_is_no_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound, match="prolip-search index FOLDER"):
        Store.open(tmp_path)


def test_an_index_is_found_from_a_folder_below_its_root(tmp_path: Path) -> None:
    new_store(tmp_path)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert Store.find(below) == tmp_path.resolve() / INDEX_FOLDER
    assert Store.find(tmp_path) == tmp_path.resolve() / INDEX_FOLDER
    (below / INDEX_FOLDER).mkdir()  # without a manifest it is not an index
    assert Store.find(below) == tmp_path.resolve() / INDEX_FOLDER


@pytest.mark.parametrize("refreshed", [False, True])
def test_what_was_appended_is_read_back(tmp_path: Path, refreshed: bool) -> None:
    store = new_store(tmp_path)
    gaussians = make_gaussians(5, 8, 0)
    store.append(items(gaussians, width=pa.array([1, 2, 3, 4, None], pa.int32())))
    if refreshed:
        store.refresh_index()
    store = Store.open(store.folder)
    assert store.derived_state == ("current" if refreshed else "missing")
    rows = [store.row_of(f"item-{number}") for number in (3, 0, 4)]
    assert None not in rows
    table = store.rows(rows, ["id", "width", "text", "uncertainty"])
    assert table["id"].to_pylist() == ["item-3", "item-0", "item-4"]
    assert table["width"].to_pylist() == [4, 1, None]
    assert table["text"].null_count == 3
    np.testing.assert_array_equal(table["uncertainty"], gaussians.uncertainty[[3, 0, 4]])
    read = store.gaussians(rows)
    np.testing.assert_array_equal(read.mean, gaussians.mean[[3, 0, 4]])
    np.testing.assert_array_equal(read.log_variance, gaussians.log_variance[[3, 0, 4]])


@pytest.mark.parametrize("path", STRANGE_PATHS)
def test_strange_names_are_stored_found_moved_and_deleted(tmp_path: Path, path: str) -> None:
    store = new_store(tmp_path)
    name = f"id of {path}"
    store.append(items(make_gaussians(2, 8, 0), ids=[name, "other"], path=[path, "other"]))
    row = store.row_of_path(path)
    assert row is not None
    assert row == store.row_of(name)
    assert store.move(pa.table({"id": [name], "path": [path + "'2"], "mtime_ns": [7]})) == 1
    assert store.row_of_path(path) is None
    assert store.row_of_path(path + "'2") == row
    assert store.delete([name]) == 1
    assert store.row_of(name) is None
    assert store.count() == 1


def test_files_lists_what_lies_at_or_under_a_folder(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    paths = ["a/1.jpg", "a/b/2.jpg", "ab/3.jpg", "a", None]
    store.append(items(make_gaussians(5, 8, 0), path=paths))
    assert store.files("a")["path"].to_pylist() == ["a/1.jpg", "a/b/2.jpg", "a"]
    assert store.files("a/b/")["path"].to_pylist() == ["a/b/2.jpg"]
    assert store.files("a/%")["path"].to_pylist() == []
    assert len(store.files()) == len(store.files(".")) == 5


def test_a_moved_item_keeps_its_row_its_gaussian_and_all_else(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    row = store.row_of("item-7")
    assert row is not None
    before = store.rows([row], ["id", "content_hash", "size_bytes", "uncertainty"])
    gaussian = store.gaussians([row])
    moved = pa.table({"id": ["item-7", "nobody"], "path": ["n/7.jpg", "x"], "mtime_ns": [99, 1]})
    assert store.move(moved) == 1
    assert store.count() == 20
    for refreshed in (False, True):
        if refreshed:
            store.refresh_index()
        assert store.row_of_path("n/7.jpg") == store.row_of("item-7") == row
        assert store.row_of_path("item-7.jpg") is None
        assert store.rows([row], before.column_names).equals(before)
        assert store.rows([row], ["mtime_ns"])["mtime_ns"].to_pylist() == [99]
        np.testing.assert_array_equal(store.gaussians([row]).mean, gaussian.mean)
        assert hit_ids(store, gaussian, 1) == [["item-7"]]


def test_the_folder_of_an_item_is_that_of_its_path(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    paths = ["a.jpg", "x/b.jpg", "../x/y y/c\nd.jpg", None]
    store.append(items(make_gaussians(4, 8, 0), path=pa.array(paths, pa.string())))
    store.move(pa.table({"id": ["item-1"], "path": ["z/b.jpg"], "mtime_ns": [1]}))
    for _ in range(2):
        table = store.table(["id", "folder"]).sort_by("id")
        assert table["folder"].to_pylist() == ["", "z", "../x/y y", None]
        store.refresh_index()


def test_an_item_that_would_move_to_two_places_is_refused(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    with pytest.raises(QueryError, match="each id once"):
        store.move(pa.table({"id": ["item-1"] * 2, "path": ["a", "b"], "mtime_ns": [1, 2]}))


def test_row_ids_survive_deletes_and_are_never_given_again(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    rows = {f"item-{n}": store.row_of(f"item-{n}") for n in range(20)}
    assert store.delete(["item-3", "item-19", "nobody"]) == 2
    store.append(items(make_gaussians(1, 8, 5), ids=["new"]))
    for refreshed in (False, True):
        if refreshed:
            store.refresh_index()
        kept = {name: store.row_of(name) for name in rows if name not in ("item-3", "item-19")}
        assert kept == {name: rows[name] for name in kept}
        assert store.row_of("new") not in rows.values()
        with pytest.raises(ItemNotFound, match="Search again"):
            store.rows([rows["item-3"]], ["id"])


def test_reading_a_row_that_never_was_is_an_error(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    for row in (-1, 20, 2**62):
        with pytest.raises(ItemNotFound):
            store.gaussians([row])
    with pytest.raises(QueryError, match=r"no column 'colour'.*uncertainty"):
        store.rows([0], ["colour"])


@pytest.mark.parametrize("state", ["missing", "current", "behind"])
def test_every_state_of_the_derived_files_gives_the_same_answers(
    tmp_path: Path, state: str
) -> None:
    gaussians, queries = make_gaussians(60, 8, 0), make_gaussians(7, 8, 1)
    store = new_store(tmp_path)
    rows = items(gaussians)
    store.append(rows.slice(0, 40))
    if state == "behind":
        store.refresh_index()
    store.append(rows.slice(40))
    store.delete(["item-1", "item-50"])
    store.move(pa.table({"id": ["item-2"], "path": ["2"], "mtime_ns": [0]}))
    if state == "current":
        store.refresh_index()
    assert store.derived_state == state
    alive = [f"item-{n}" for n in range(60) if n not in (1, 50)]
    assert store.count() == store.count("image") == len(alive)
    assert sorted(store.files()["id"].to_pylist()) == sorted(alive)
    distance = np.square(queries.mean[:, None] - gaussians.mean).sum(-1) + gaussians.uncertainty
    distance[:, [1, 50]] = np.inf
    expected = [[f"item-{n}" for n in row[:12]] for row in distance.argsort(1)]
    assert hit_ids(store, queries, 12) == expected
    assert hit_ids(store, queries, 8, offset=4) == [row[4:] for row in expected]


def test_images_and_texts_share_the_index_and_a_search_says_which_it_wants(
    tmp_path: Path,
) -> None:
    store = new_store(tmp_path)
    gaussians = make_gaussians(6, 8, 0)
    store.append(items(gaussians[:3], ids=["i0", "i1", "i2"]))
    store.append(items(gaussians[3:], ids=["t0", "t1", "t2"], kind="text", text=["a", "b", "c"]))
    for refreshed in (False, True):
        if refreshed:
            store.refresh_index()
        query = make_gaussians(1, 8, 1)
        assert set(hit_ids(store, query, 9)[0]) == {"i0", "i1", "i2"}
        assert set(hit_ids(store, query, 9, kinds=("text",))[0]) == {"t0", "t1", "t2"}
        assert len(hit_ids(store, query, 9, kinds=("image", "text"))[0]) == 6
    assert (store.count("image"), store.count("text"), store.count()) == (3, 3, 6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"k": 0}, "k >= 1"),
        ({"offset": -1}, "offset"),
        ({"kinds": ()}, "image, text"),
        ({"kinds": "image"}, "tuple"),
        ({"kinds": ("video",)}, "video"),
        ({"rank_by": "magic"}, "csd, cosine, membership"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    tmp_path: Path, options: dict[str, object], complaint: str
) -> None:
    store = filled_store(tmp_path)
    with pytest.raises(QueryError, match=complaint):
        store.search(make_gaussians(1, 8, 0), **({"k": 5} | options))  # type: ignore[arg-type]  # on purpose


def test_a_query_of_another_dimension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DimensionMismatch):
        filled_store(tmp_path).search(make_gaussians(1, 9, 0), 3)


def test_an_id_cannot_come_twice(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    version = store.version
    with pytest.raises(QueryError, match="'item-4'"):
        store.append(items(make_gaussians(2, 8, 1), ids=["fresh", "item-4"]))
    with pytest.raises(QueryError, match="'twin' occurs twice"):
        store.append(items(make_gaussians(2, 8, 1), ids=["twin", "twin"]))
    assert (store.count(), store.version) == (20, version)


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    good = items(make_gaussians(2, 8, 0))
    bad_mean = good.set_column(good.column_names.index("mean"), "mean", good["log_variance"])
    for rows, complaint in [
        (good.append_column("colour", pa.array(["red", "blue"])), "no column 'colour'"),
        (good.drop_columns("mean"), "need the column 'mean'"),
        (items(make_gaussians(2, 9, 0)), "expected 8, found 9"),
        (items(make_gaussians(2, 8, 0), kind="video"), "video"),
        (items(make_gaussians(2, 8, 0), ids=["", "b"]), "not be empty"),
        (items(make_gaussians(2, 8, 0), id=[None, "b"]), "'id' of an item must not be null"),
        (bad_mean, "unit length"),
    ]:
        with pytest.raises((QueryError, InvalidGaussians), match=complaint):
            store.append(rows)
    assert store.count() == 0


def test_the_uncertainty_that_is_stored_is_that_of_the_log_variances(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    gaussians = make_gaussians(2, 8, 0)
    store.append(items(gaussians, uncertainty=pa.array([5.0, 6.0], pa.float32())))
    np.testing.assert_array_equal(store.table(["uncertainty"])[0], gaussians.uncertainty)


def test_appending_or_deleting_nothing_is_no_commit(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    version = store.version
    store.append(items(make_gaussians(2, 8, 0)).slice(0, 0))
    assert store.delete([]) == store.delete(["nobody"]) == 0
    assert store.version == version
    assert store.derived_state == "current"


def test_a_reader_keeps_its_version_until_it_reloads(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    reader = Store.open(store.folder)
    assert reader.count() == 20
    store.append(items(make_gaussians(1, 8, 9), ids=["late"]))
    store.delete(["item-0"])
    store.refresh_index()
    assert reader.row_of("item-0") is not None
    assert hit_ids(reader, reader.gaussians([reader.row_of("item-0")]), 1) == [["item-0"]]
    assert reader.reload()
    assert not reader.reload()
    assert reader.row_of("item-0") is None
    assert reader.row_of("late") is not None


def test_a_lancedb_user_can_open_the_items_table(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    store = filled_store(tmp_path)
    table = lancedb.connect(store.folder).open_table(f"items-{FINGERPRINT[:8]}")
    assert table.count_rows() == 20
    assert table.search().where("id = 'item-3'").to_list()[0]["path"] == "item-3.jpg"


def test_a_column_that_a_lancedb_user_added_is_let_be(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    uri = str(store.folder / f"items-{FINGERPRINT[:8]}.lance")
    lance.dataset(uri).add_columns(pa.field("stars", pa.int64()))
    lance.dataset(uri).update({"stars": "5"})
    store.reload()
    assert hit_ids(store, store.gaussians([3]), 1, rank_by="cosine") == [["item-3"]]
    store.append(items(make_gaussians(1, 8, 3), ids=["new"]))
    store.move(pa.table({"id": ["item-1"], "path": ["moved"], "mtime_ns": [1]}))
    store.refresh_index()
    assert Store.open(store.folder).derived_state == "current"
    stars = lance.dataset(uri).to_table(["id", "stars"]).to_pylist()
    assert {row["id"]: row["stars"] for row in stars} == {
        **{f"item-{n}": 5 for n in range(20)},
        "new": None,
    }


def test_vectors_changed_behind_our_back_are_searched_as_they_are_now(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    assert store.count() == 20
    query = make_gaussians(1, 8, 77)
    dataset = lance.dataset(str(store.folder / f"items-{FINGERPRINT[:8]}.lance"))
    changed = items(query, ids=["item-13"]).select(["id", "mean"])
    changed = changed.append_column("checksum", pa.nulls(1, pa.uint32()))
    changed = changed.cast(pa.schema([dataset.schema.field(name) for name in changed.column_names]))
    dataset.merge_insert("id").when_matched_update_all().execute(changed)
    assert store.reload()
    assert hit_ids(store, query, 1, rank_by="cosine") == [["item-13"]]


def test_vectors_changed_without_their_checksum_are_damage(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    uri = str(store.folder / f"items-{FINGERPRINT[:8]}.lance")
    lance.dataset(uri).update({"uncertainty": "0.5"}, where="id = 'item-3'")
    with pytest.raises(IndexDamaged, match=r"item 'item-3' does not match.*--rebuild"):
        Store.open(store.folder).search(make_gaussians(1, 8, 0), 1)


def test_a_thousand_ids_are_deleted_in_one_commit(tmp_path: Path) -> None:
    store = new_store(tmp_path, dim=2)
    store.append(items(make_gaussians(5000, 2, 0)))
    version = store.version
    assert store.delete([f"item-{number}" for number in range(4500)]) == 4500
    assert store.version == version + 1
    assert store.count() == 500


def test_skipped_files_are_replaced_by_path_and_forgotten(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    assert len(store.skipped()) == 0

    def skip(*rows: tuple[str, str]) -> pa.Table:
        n = len(rows)
        return pa.table(
            {
                "path": [path for path, _ in rows],
                "reason": [reason for _, reason in rows],
                "detail": pa.array([None] * n, pa.string()),
                "size_bytes": pa.array(range(n), pa.int64()),
                "mtime_ns": pa.array(range(n), pa.int64()),
            }
        )

    store.record_skipped(skip(("b'\n.jpg", "empty"), ("a.jpg", "truncated")))
    store.record_skipped(skip(("a.jpg", "not_an_image"), ("c.jpg", "empty")))
    store.record_skipped(skip())
    seen = Store.open(store.folder).skipped()
    assert seen["path"].to_pylist() == ["a.jpg", "b'\n.jpg", "c.jpg"]
    assert seen["reason"].to_pylist() == ["not_an_image", "empty", "empty"]
    store.forget_skipped(["a.jpg", "b'\n.jpg", "never.jpg"])
    assert store.skipped()["path"].to_pylist() == ["c.jpg"]
    with pytest.raises(QueryError, match="once"):
        store.record_skipped(skip(("d", "empty"), ("d", "empty")))


def test_a_rebuilt_index_answers_as_before_until_it_is_published(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    other = record(4, fingerprint="f" * 64)
    staged = Store.rebuild(store.folder, encoder=other)
    staged.append(items(make_gaussians(2, 4, 1), ids=["a", "b"]))
    staged.refresh_index()
    assert Store.open(store.folder).encoder == record()
    assert Store.open(store.folder).derived_state == "current"
    resumed = Store.rebuild(store.folder, encoder=other)  # as after an interruption
    assert sorted(resumed.table(["id"])["id"].to_pylist()) == ["a", "b"]
    resumed.append(items(make_gaussians(1, 4, 2), ids=["c"]))
    resumed.publish()
    opened = Store.open(store.folder)
    assert opened.encoder == other
    assert opened.derived_state == "current"
    assert hit_ids(opened, make_gaussians(1, 4, 2), 1, rank_by="cosine") == [["c"]]
    assert [path.name for path in store.folder.glob("items-*")] == ["items-ffffffff.lance"]


def test_an_index_is_rebuilt_with_the_encoder_that_it_has(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    for _ in range(2):
        staged = Store.rebuild(store.folder, encoder=record())
        assert staged.count() == 0
        staged.append(items(make_gaussians(3, 8, 5)))
        staged.publish()
        assert Store.open(store.folder).count() == 3
        assert len(list(store.folder.glob("items-*"))) == 1


def test_a_store_that_was_rebuilt_with_another_encoder_takes_no_more_of_the_old(
    tmp_path: Path,
) -> None:
    store = filled_store(tmp_path)
    assert store.count() == 20
    Store.rebuild(store.folder, encoder=record(fingerprint="f" * 64)).publish()
    with pytest.raises(EncoderMismatch, match="--rebuild"):
        store.append(items(make_gaussians(1, 8, 5), ids=["new"]))
    assert store.count() == 20  # what it has read stays readable
    assert store.reload()
    assert store.count() == 0
    assert store.encoder.fingerprint == "f" * 64
