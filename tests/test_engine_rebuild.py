from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from prolip_search.engine import SearchEngine
from prolip_search.errors import IndexLocked, QueryError
from prolip_search.indexes.manifest import items_table_name
from prolip_search.testing import FakeEncoder

COLOURS = ["red", "green", "blue", "yellow"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (32, 24), colour).save(tmp_path / f"photos/{colour}.png")
    return tmp_path / "photos"


@pytest.fixture
def folder(tmp_path: Path, photos: Path) -> Path:
    """An index of the photos, by another encoder than the one to come."""
    folder = tmp_path / ".prolip-search"
    SearchEngine.create(folder, encoder=FakeEncoder(salt="old")).index(photos)
    return folder


class Stops(FakeEncoder):
    """Fails, as a full disk or a power cut does, after two pictures."""

    def encode_prepared(self, batch):  # type: ignore[no-untyped-def]  # as in FakeEncoder
        if self.n_images_encoded >= 2:
            raise KeyboardInterrupt
        return super().encode_prepared(batch)


def test_a_rebuild_takes_the_place_of_the_old_index(folder: Path, photos: Path) -> None:
    engine, report = SearchEngine.rebuild(folder, photos, encoder=FakeEncoder())
    assert report.n_added == 4
    assert engine.store.folder == folder
    opened = SearchEngine.open(folder, encoder=FakeEncoder())
    assert opened.search("red", 1)[0].path == "photos/red.png"
    assert sorted(path.name for path in folder.parent.iterdir()) == [".prolip-search", "photos"]


def test_the_old_index_answers_until_the_new_one_is_complete_and_nothing_is_done_twice(
    folder: Path, photos: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        SearchEngine.rebuild(folder, photos, encoder=Stops(), batch_size=1)
    old = SearchEngine.open(folder, encoder=FakeEncoder(salt="old"))
    assert len(old.search("red")) == 4
    encoder = FakeEncoder()
    _, report = SearchEngine.rebuild(folder, photos, encoder=encoder, batch_size=1)
    assert (report.n_unchanged, report.n_added, encoder.n_images_encoded) == (2, 2, 2)


def test_what_another_encoder_left_unfinished_is_not_used(folder: Path, photos: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        SearchEngine.rebuild(folder, photos, encoder=Stops(), batch_size=1)
    _, report = SearchEngine.rebuild(folder, photos, encoder=FakeEncoder(salt="third"))
    assert report.n_added == 4


def test_a_rebuild_that_could_not_even_make_its_table_begins_anew(
    folder: Path, photos: Path
) -> None:
    """A full disk, or a kill, between the folder of a table and its first version."""
    (folder / items_table_name(FakeEncoder().fingerprint) / "data").mkdir(parents=True)
    (folder / "writer.lock").write_text("of a writer that failed")
    _, report = SearchEngine.rebuild(folder, photos, encoder=FakeEncoder())
    assert report.n_added == 4


def test_an_index_that_is_being_written_is_not_replaced(folder: Path, photos: Path) -> None:
    writing = SearchEngine.open(folder)
    with writing.store.writer(), pytest.raises(IndexLocked):
        SearchEngine.rebuild(folder, photos, encoder=FakeEncoder())
    assert len(SearchEngine.open(folder).store.table(["id"])) == 4


def test_a_mistake_leaves_the_old_index(folder: Path, photos: Path) -> None:
    with pytest.raises(QueryError, match="no file or folder"):
        SearchEngine.rebuild(folder, photos / "nothing", encoder=FakeEncoder())
    assert len(SearchEngine.open(folder).store.table(["id"])) == 4


def test_without_an_old_index_a_rebuild_makes_one(tmp_path: Path, photos: Path) -> None:
    _, report = SearchEngine.rebuild(tmp_path / "new", photos, encoder=FakeEncoder())
    assert report.n_added == 4
    assert SearchEngine.open(tmp_path / "new").status().n_images == 4
