"""Libraries that are moved, renamed, backed up and restored: nothing is encoded again or lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from prolip_search.engine import SearchEngine
from prolip_search.testing import FakeEncoder
from tests.test_indexing import counts, n_encoded

N_PHOTOS = 40
QUERY = "something blue"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Forty photos in two folders, their index beside them, and a text with metadata in it."""
    library = tmp_path / "library"
    for number in range(N_PHOTOS):
        draw(library / f"photos/{'trip' if number % 2 else 'home'}/{number:02}.png", number)
    engine = SearchEngine.create(library / ".prolip-search", encoder=FakeEncoder())
    engine.index(library / "photos")
    engine.add(["a red evening"], ids=["note"], metadata=[{"stars": 5}])
    return library


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (number * 6, 64, 128)).save(path)


def opened(library: Path) -> SearchEngine:
    return SearchEngine.open(library / ".prolip-search", encoder=FakeEncoder())


def held(engine: SearchEngine) -> pa.Table:
    """Everything that the index must keep, whatever becomes of files."""
    columns = ["row_id", "id", "path", "content_hash", "uncertainty", "metadata"]
    return engine.store.table(columns).sort_by("id")


def answer(engine: SearchEngine) -> list[tuple[str, float]]:
    return [(result.id, result.csd) for result in engine.search(QUERY, N_PHOTOS)]


def age(folder: Path) -> None:
    """Other times for every file, as a restore that keeps none gives them."""
    for number, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, ns=(number, number))


def test_a_library_moved_whole_is_as_it_was(library: Path, tmp_path: Path) -> None:
    before = held(opened(library)), answer(opened(library))
    moved = opened(library.rename(tmp_path / "elsewhere"))
    assert (held(moved), answer(moved)) == before
    assert counts(moved.index()) == {"unchanged": N_PHOTOS}
    assert n_encoded(moved) == 0
    assert all(result.file and result.file.is_file() for result in moved.search(QUERY, N_PHOTOS))


def test_renaming_a_thousand_files_keeps_every_item(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(1000):
        pixel = bytes([number % 251, number // 251, 99])
        (photos / f"{number}.ppm").write_bytes(b"P6 1 1 255 " + pixel)
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())
    engine.index(photos)
    names = ["row_id", "id", "content_hash", "uncertainty"]
    before = held(engine).select(names)
    for number in range(1000):
        (photos / f"{number}.ppm").rename(photos / f"renamed {number}.ppm")
        os.utime(photos / f"renamed {number}.ppm", ns=(number, number))  # as a backup restores it
    assert counts(engine.index(photos)) == {"moved": 1000}
    assert held(engine).select(names) == before
    assert n_encoded(engine) == 1000


def test_a_restored_copy_with_other_times_and_inodes_is_as_it_was(
    library: Path, tmp_path: Path
) -> None:
    opened(library).store.refresh_index()
    before = held(opened(library)), answer(opened(library))
    copy = Path(shutil.copytree(library, tmp_path / "restored", copy_function=shutil.copyfile))
    shutil.rmtree(library)
    age(copy)
    restored = opened(copy)
    assert (held(restored), answer(restored)) == before
    assert restored.store.derived_state == "current"  # nothing is derived again either
    assert counts(restored.index()) == {"unchanged": N_PHOTOS}
    assert n_encoded(restored) == 0
    assert (held(restored), answer(restored)) == before
    assert counts(restored.index()) == {"unchanged": N_PHOTOS}  # and the new times are known
    assert restored.verify().clean


def test_an_index_older_than_the_photos_catches_up_on_what_is_new_and_no_more(
    library: Path, tmp_path: Path
) -> None:
    backup = Path(shutil.copytree(library / ".prolip-search", tmp_path / "backup"))
    ids = {row["path"]: row["id"] for row in held(opened(library)).to_pylist()}
    photos = library / "photos"
    draw(photos / "home/new.png", 41)
    draw(photos / "home/00.png", 42)  # edited
    (photos / "home/02.png").unlink()
    (photos / "trip").rename(photos / "journey")
    (photos / "home/04.png").rename(photos / "home/four.png")
    newer = opened(library)
    newer.index()
    newest = answer(newer)

    shutil.rmtree(library / ".prolip-search")
    shutil.copytree(backup, library / ".prolip-search", copy_function=shutil.copyfile)
    age(library / ".prolip-search")
    restored = opened(library)
    assert counts(restored.index()) == {
        "added": 1,
        "changed": 1,
        "moved": 21,
        "unchanged": 17,
        "removed": 1,
    }
    assert n_encoded(restored) == 2
    now = {row["path"]: row["id"] for row in held(restored).to_pylist()}
    assert now["photos/journey/01.png"] == ids["photos/trip/01.png"]
    assert now["photos/home/four.png"] == ids["photos/home/04.png"]
    assert answer(restored) == newest
    assert restored.search(QUERY, 1, kinds=["text"])[0].metadata == {"stars": 5}


def test_photos_older_than_the_index_cost_what_differs(library: Path, tmp_path: Path) -> None:
    backup = Path(shutil.copytree(library / "photos", tmp_path / "backup"))
    draw(library / "photos/home/00.png", 42)
    (library / "photos/home/02.png").rename(library / "photos/home/two.png")
    opened(library).index()
    shutil.rmtree(library / "photos")
    shutil.copytree(backup, library / "photos", copy_function=shutil.copyfile)
    age(library / "photos")
    restored = opened(library)
    report = counts(restored.index())
    assert report == {"changed": 1, "moved": 1, "unchanged": N_PHOTOS - 2}
    assert n_encoded(restored) == 1


def test_the_index_alone_answers_while_the_photos_are_away(library: Path, tmp_path: Path) -> None:
    before = held(opened(library)), answer(opened(library))
    (library / "photos").rename(tmp_path / "away")
    alone = opened(library)
    assert counts(alone.index()) == {"missing": N_PHOTOS}
    assert (held(alone), answer(alone)) == before
    (tmp_path / "away").rename(library / "photos")
    assert counts(alone.index()) == {"unchanged": N_PHOTOS}
    assert n_encoded(alone) == 0
    assert (held(alone), answer(alone)) == before
