import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from prolip_search import files
from prolip_search.errors import UnreadableImage
from prolip_search.files import FoundFile, content_hash, read_file, walk
from tests.ordinary_user import ordinary_user


def names(found: Iterable[FoundFile], root: Path) -> list[str]:
    return [str(file.path.relative_to(root)) for file in found]


def test_walk_is_in_name_order_and_looks_only_at_candidates(tmp_path: Path) -> None:
    for name in [
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "z/c.webp",
        ".git/d.jpg",
        "Makefile",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(walk([tmp_path]), tmp_path) == ["a.PNG", "b.jpg", "z/c.webp"]


def test_a_file_named_by_hand_is_a_candidate_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "scan").write_bytes(b"x")
    assert names(walk([tmp_path / "scan"]), tmp_path) == ["scan"]
    assert names(walk([tmp_path]), tmp_path) == []


def test_link_loops_end_and_links_to_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album/a.jpg").write_bytes(b"x")
    (tmp_path / "album/again").symlink_to(tmp_path)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "album/a.jpg")
    assert names(walk([tmp_path]), tmp_path) == ["b.jpg", "album/a.jpg"]


def test_links_that_lead_nowhere_or_to_themselves_are_skipped_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    skips: list[UnreadableImage] = []
    assert names(walk([tmp_path], on_skip=skips.append), tmp_path) == []
    assert {skip.path.name: skip.reason for skip in skips} == {
        "gone.jpg": "vanished",
        "loop.jpg": "unsupported",
    }


def test_excluded_folders_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index/a.jpg").write_bytes(b"x")
    assert names(walk([tmp_path], exclude=[tmp_path / "index"]), tmp_path) == []


def test_an_unreadable_folder_is_reported_and_the_walk_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0)
    (tmp_path / "b.jpg").write_bytes(b"x")
    skips: list[UnreadableImage] = []
    with ordinary_user():
        assert names(walk([tmp_path], on_skip=skips.append), tmp_path) == ["b.jpg"]
    assert [(skip.path.name, skip.reason) for skip in skips] == [("a", "permission")]


def test_a_pipe_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage) as caught:
        read_file(tmp_path / "pipe.jpg")  # opening it would wait for a writer for ever
    assert caught.value.reason == "unsupported"


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no device files here")
def test_a_device_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_file(Path("/dev/zero"))


def test_empty_missing_forbidden_and_huge_files_have_their_own_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "forbidden.jpg").write_bytes(b"x")
    (tmp_path / "forbidden.jpg").chmod(0)
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(files.MAX_BYTES + 1)  # sparse: takes no space
    reasons = {}
    with ordinary_user():
        for name in ["empty.jpg", "missing.jpg", "forbidden.jpg", "huge.jpg"]:
            with pytest.raises(UnreadableImage) as caught:
                read_file(tmp_path / name)
            reasons[name] = caught.value.reason
    assert list(reasons.values()) == ["empty", "vanished", "permission", "too_large"]


def test_content_hash_is_of_the_bytes_and_128_bits_long() -> None:
    assert content_hash(b"a") == content_hash(b"a") != content_hash(b"b")
    assert len(content_hash(b"")) == 32
