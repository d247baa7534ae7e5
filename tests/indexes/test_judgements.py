"""judgements.lance and what is fitted from it, as the store keeps them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from prolip_search.errors import IndexDamaged, QueryError
from prolip_search.indexes.judgements import JUDGEMENTS_NAME, JUDGEMENTS_SCHEMA
from prolip_search.indexes.store import Store
from prolip_search.testing import FakeEncoder
from prolip_search.verification import verify_index
from tests.indexes.building import filled_store, judged, record


def judged_ids(store: Store) -> list[str | None]:
    return store.judgements()["item_id"].to_pylist()  # type: ignore[no-any-return]  # pyarrow


def test_a_store_without_judgements_has_an_empty_table_and_no_file(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    assert store.judgements().schema == JUDGEMENTS_SCHEMA
    assert len(store.judgements()) == 0
    assert store.forget_judgements() == 0
    assert not (store.folder / JUDGEMENTS_NAME).exists()


def test_judgements_are_kept_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-3", "item-1"]))
    store.record_judgements(judged([None]))
    store.record_judgements(judged(["item-1"], label=["no_match"]))
    opened = Store.open(store.folder)
    assert judged_ids(opened) == ["item-3", "item-1", None, "item-1"]
    table = opened.judgements()
    assert table["label"].to_pylist() == ["match", "match", "none", "no_match"]
    assert len(table["query_mean"][0]) == 8
    assert table.schema == JUDGEMENTS_SCHEMA


def test_items_that_leave_take_their_judgements_along(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-3", "item-1", "item-3", None]))
    store.delete(["item-3", "item-7", "unknown"])
    assert judged_ids(store) == ["item-1", None]
    store.optimize()
    assert judged_ids(Store.open(store.folder)) == ["item-1", None]


def test_judgements_outlive_a_rebuild_and_what_was_fitted_does_not(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-3"]))
    store.set_calibration({"w": [1.0]})
    staged = Store.rebuild(store.folder, encoder=record(4, fingerprint="f" * 64))
    staged.delete(["item-3"])  # of the new table, where it is not yet
    assert Store.open(store.folder).manifest.calibration == {"w": [1.0]}
    staged.publish()
    opened = Store.open(store.folder)
    assert judged_ids(opened) == ["item-3"]
    assert opened.manifest.calibration is None


def test_what_was_fitted_lies_in_the_manifest_and_may_be_anything(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.set_calibration({"w": [1.0, 2.5], "none": None})
    store.remember_roots(["photos"])
    opened = Store.open(store.folder)
    assert opened.manifest.calibration == {"w": [1.0, 2.5], "none": None}
    path = store.folder / "manifest.json"
    for strange in ("text", [1], 3):
        content = json.loads(path.read_text()) | {"calibration": strange, "checksum": None}
        path.write_text(json.dumps(content))
        assert Store.open(store.folder).manifest.calibration is None


def test_forgetting_drops_what_was_fitted_as_well(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-3", "item-4"]))
    store.set_calibration({"w": [1.0]})
    assert store.forget_judgements() == 2
    opened = Store.open(store.folder)
    assert (len(opened.judgements()), opened.manifest.calibration) == (0, None)
    opened.record_judgements(judged(["item-5"]))
    assert judged_ids(opened) == ["item-5"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": ["maybe"]}, "one of match, no_match, target, none, not 'maybe'"),
        ({"source": ["rumour"]}, "one of judge, pairs, thumbs"),
        ({"query_kind": ["smell"]}, "one of text, image"),
        ({"item_id": [None]}, "names an item"),
        ({"label": ["none"]}, "names an item"),
        ({"rank": ["first"]}, "The rank of a judgement is int32"),
        ({"stars": [5]}, "A judgement has no 'stars'"),
    ],
)
def test_what_cannot_be_a_judgement_is_refused_and_nothing_is_written(
    tmp_path: Path, columns: dict[str, list[object]], expected: str
) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-1"]))
    with pytest.raises(QueryError, match=expected):
        store.record_judgements(judged(["item-2"], **columns))
    assert judged_ids(store) == ["item-1"]
    assert (store.folder / "writer.lock").read_text() == ""


def test_a_table_that_was_killed_at_its_first_commit_is_made_again(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    (store.folder / JUDGEMENTS_NAME / "data").mkdir(parents=True)
    (store.folder / JUDGEMENTS_NAME / "data/half.lance").write_bytes(b"half")
    assert len(store.judgements()) == 0
    store.record_judgements(judged(["item-1"]))
    assert judged_ids(store) == ["item-1"]
    assert not (store.folder / JUDGEMENTS_NAME / "data/half.lance").exists()


def test_damage_is_one_error_that_says_what_is_lost(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-1"]))
    shutil.rmtree(store.folder / JUDGEMENTS_NAME / "data")
    opened = Store.open(store.folder)
    with pytest.raises(IndexDamaged, match="forgets what was judged"):
        opened.judgements()
    report = verify_index(store.folder, lambda store: FakeEncoder(), repair=True)
    assert "judgements" in {finding.part for finding in report.findings}


def test_damaged_judgements_do_not_keep_the_index_from_being_written(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-1"]))
    for path in (store.folder / JUDGEMENTS_NAME / "_versions").iterdir():
        path.write_bytes(b"what a failing disk gives")
    (store.folder / "writer.lock").write_text("{}")  # a writer died
    assert Store.open(store.folder).delete(["item-1"]) == 1


@pytest.mark.parametrize("table", ["judgements", "skipped"])
def test_a_panic_of_lance_is_damage_with_the_cure_of_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    class PanicException(BaseException):
        """As Lance's Rust code raises it: no Exception, and of a class that nobody can import."""

    def panic(path: Path) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    store = filled_store(tmp_path)
    store.record_judgements(judged(["item-1"]))
    (store.folder / "skipped.lance").mkdir()
    monkeypatch.setattr(f"prolip_search.indexes.{table}.sealed_dataset", panic)
    with pytest.raises(IndexDamaged, match=rf"{table}.lance is damaged.* delete that folder"):
        getattr(store, table)()
