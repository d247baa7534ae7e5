"""Every kind of damage is found, said with what to do, and mended where that can be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import lance
import pytest
from PIL import Image

from prolip_search.engine import SearchEngine
from prolip_search.errors import EncoderNotFound, IndexNotFound
from prolip_search.indexes.manifest import read_manifest
from prolip_search.testing import FakeEncoder
from prolip_search.verification import VerifyReport, verify_index

COLOURS = ["red", "green", "blue", "yellow", "white", "black"]


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (32, 24), colour).save(tmp_path / f"photos/{colour}.png")
    (tmp_path / "photos/letter.jpg").write_text("Dear diary")
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())
    engine.index(tmp_path / "photos")
    engine.add(["a caption"])
    return engine


def found(report: VerifyReport) -> list[tuple[str, str]]:
    return [(finding.part, finding.path) for finding in report.findings]


def check(engine: SearchEngine, *, repair: bool = False) -> VerifyReport:
    """From the folder alone, as the command line does it."""
    return verify_index(engine.store.folder, lambda store: FakeEncoder(), repair=repair)


def items_table(engine: SearchEngine) -> Path:
    return engine.store.folder / engine.store.manifest.items_table


def test_a_sound_index_is_clean_whether_or_not_its_derived_files_are_up_to_date(
    engine: SearchEngine,
) -> None:
    report = engine.verify()
    assert report.clean
    assert (report.n_items, report.n_files) == (7, 6)
    assert (report.leftovers, report.notes, report.repaired) == ((), (), ())
    engine.store.refresh_index()
    assert engine.verify().clean
    (engine.store.folder / "csd.json").unlink()
    assert check(engine).clean


def test_files_that_are_gone_or_changed_are_named(engine: SearchEngine, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "red.png").unlink()
    Image.new("RGB", (99, 24), "pink").save(photos / "blue.png")
    data = bytearray((photos / "green.png").read_bytes())
    data[-20] ^= 1
    (photos / "green.png").write_bytes(data)  # as large as before
    os.utime(photos / "green.png", ns=(5, 5))
    os.utime(photos / "white.png", ns=(1, 1))  # only touched: nothing to do
    report = engine.verify()
    assert [(f.path, f.what) for f in report.findings] == [
        ("photos/blue.png", "changed since it was indexed"),
        ("photos/green.png", "changed since it was indexed"),
        ("photos/red.png", "is gone"),
    ]
    engine.index(photos)
    assert engine.verify().clean


def test_a_folder_that_may_not_be_mounted_is_one_finding(
    engine: SearchEngine, tmp_path: Path
) -> None:
    (tmp_path / "photos").rename(tmp_path / "away")
    report = engine.verify()
    assert found(report) == [("file", "photos")]
    assert report.findings[0].what == "is not there, and 6 files with it"
    (tmp_path / "photos").mkdir()
    assert engine.verify().findings[0].what == "is empty, and 6 files with it"


@pytest.mark.parametrize("name", ["csd.json", "csd-*.faiss", "csd-*.arrow"])
def test_damaged_derived_files_are_found_and_mended(engine: SearchEngine, name: str) -> None:
    engine.store.refresh_index()
    path = next(engine.store.folder.glob(name))
    path.write_bytes(path.read_bytes()[:-3] + b"???")
    report = check(engine)
    assert found(report) == [("derived", "csd.json")]
    assert "--repair" in report.findings[0].advice
    assert report.findings[0].repairable
    assert report.n_files == 6
    mended = check(engine, repair=True)
    assert mended.clean
    assert len(mended.repaired) >= 1
    assert check(engine).clean


def test_a_list_of_skipped_files_that_cannot_be_read_is_dropped(engine: SearchEngine) -> None:
    for path in (engine.store.folder / "skipped.lance/_versions").iterdir():
        path.write_bytes(b"nothing")
    assert found(check(engine)) == [("skipped", "skipped.lance")]
    assert check(engine, repair=True).clean
    assert engine.index(engine.store.root / "photos").skipped[0].path == "photos/letter.jpg"


def test_an_item_that_does_not_match_its_checksum_is_named_and_not_mended(
    engine: SearchEngine,
) -> None:
    lance.dataset(str(items_table(engine))).update({"uncertainty": "0.5"}, where="kind = 'text'")
    report = check(engine, repair=True)
    assert [part for part, _ in found(report)] == ["items"]
    assert "a backup" in report.findings[0].advice
    assert report.repaired == ()


@pytest.mark.parametrize("what", ["data", "_versions"])
def test_a_table_that_lost_its_files_is_a_finding(engine: SearchEngine, what: str) -> None:
    shutil.rmtree(items_table(engine) / what)
    report = check(engine, repair=True)
    assert [part for part, _ in found(report)] == ["items"]
    assert "--rebuild" in report.findings[0].advice


@pytest.mark.parametrize("content", ["{", '{"format_version": 1}'])
def test_a_manifest_that_cannot_be_read_is_a_finding(engine: SearchEngine, content: str) -> None:
    (engine.store.folder / "manifest.json").write_text(content)
    report = check(engine, repair=True)
    assert found(report) == [("manifest", "manifest.json")]
    assert "--rebuild" in report.findings[0].advice


def test_a_folder_without_an_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound):
        verify_index(tmp_path, lambda store: FakeEncoder())


def test_an_encoder_that_is_gone_or_another_is_a_finding(engine: SearchEngine) -> None:
    def gone(store: object) -> FakeEncoder:
        raise EncoderNotFound("There is no encoder 'fake'. Put it back.")

    report = verify_index(engine.store.folder, gone)
    assert found(report) == [("encoder", "fake")]
    assert report.findings[0].advice == "Put it back."


def test_leftovers_of_a_killed_writer_are_no_finding_and_are_removed(
    engine: SearchEngine, tmp_path: Path
) -> None:
    folder = engine.store.folder
    (folder / "csd-99.faiss.writing").write_bytes(b"half")
    (folder / "csd-98.arrow").write_bytes(b"old")
    (items_table(engine) / "data/0123456789.lance").write_bytes(b"orphan")
    shutil.copytree(items_table(engine), folder / "items-aaaaaaaa.lance")
    shutil.copytree(items_table(engine), folder / "items-bbbbbbbb.lance")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"replaced": ["items-aaaaaaaa.lance"], "checksum": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    report = check(engine)
    assert report.clean
    assert report.leftovers == (
        "csd-98.arrow",
        "csd-99.faiss.writing",
        "items-aaaaaaaa.lance, which a rebuild replaced",
        f"1 parts of {items_table(engine).name}",
    )
    assert "items-bbbbbbbb.lance is a rebuild that was not finished" in report.notes[0]
    report = check(engine, repair=True)
    assert (report.clean, report.leftovers, len(report.repaired)) == (True, (), 4)
    assert (folder / "items-bbbbbbbb.lance").is_dir()
    assert not (folder / "items-aaaaaaaa.lance").exists()
    assert read_manifest(folder).replaced == ()
    assert [path.name for path in folder.glob("*.writing")] == []
    assert len(engine.search("red", 3)) == 3
