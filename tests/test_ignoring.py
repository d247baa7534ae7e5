"""Which files a walk leaves out: the rules of .gitignore."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolip_search.files import walk
from prolip_search.ignoring import IGNORE_FILE, Ignoring

FILES = ["a.jpg", "b.png", "old/c.jpg", "old/d.png", "trip/old/e.jpg", "trip/f.jpg", "trip/g.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def left(photos: Path, patterns: list[str], root: str = ".") -> list[str]:
    """What a walk finds; and that asking about single files gives the same."""
    ignoring = Ignoring(photos.parent, patterns)
    roots = [photos / root]
    found = [file.path.relative_to(photos).as_posix() for file in walk(roots, ignoring=ignoring)]
    below = [name for name in FILES if (photos / name).is_relative_to(photos / root)]
    assert sorted(n for n in below if not ignoring.ignores_file(photos / n)) == sorted(found)
    return found


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        ([], []),
        (["# a comment", ""], []),
        (["*.png"], ["b.png", "old/d.png", "trip/g.png"]),
        (["/*.png"], ["b.png"]),
        (["old/"], ["old/c.jpg", "old/d.png", "trip/old/e.jpg"]),
        (["/old"], ["old/c.jpg", "old/d.png"]),
        (["old/", "!c.jpg"], ["old/c.jpg", "old/d.png", "trip/old/e.jpg"]),  # as in git
        (["*.jpg", "!f.jpg"], ["a.jpg", "old/c.jpg", "trip/old/e.jpg"]),
        (["trip/**"], ["trip/old/e.jpg", "trip/f.jpg", "trip/g.png"]),
        (["a.jpg/"], []),
        (["[ab].*"], ["a.jpg", "b.png"]),
    ],
)
def test_patterns_mean_what_they_mean_in_gitignore(
    photos: Path, patterns: list[str], left_out: list[str]
) -> None:
    expected = sorted(set(FILES) - set(left_out))
    assert sorted(left(photos, patterns)) == expected
    (photos / IGNORE_FILE).write_text("\n".join(patterns))
    assert sorted(left(photos, [])) == expected


def test_the_nearest_file_and_what_is_given_by_hand_have_the_last_word(photos: Path) -> None:
    (photos / IGNORE_FILE).write_text("*.jpg\n")
    (photos / "trip" / IGNORE_FILE).write_text("!*.jpg\n/g.png\n")
    assert left(photos, []) == ["b.png", "old/d.png", "trip/f.jpg", "trip/old/e.jpg"]
    assert left(photos, ["!g.png", "f.jpg"]) == [
        "b.png",
        "old/d.png",
        "trip/g.png",
        "trip/old/e.jpg",
    ]


def test_a_folder_is_treated_alike_from_wherever_the_walk_begins(photos: Path) -> None:
    (photos / IGNORE_FILE).write_text("/trip/g.png\nold\n")
    assert left(photos, [], root="trip") == ["trip/f.jpg"]
    (photos.parent / IGNORE_FILE).write_text("f.jpg\n")
    assert left(photos, [], root="trip") == []


def test_files_above_the_top_are_not_heeded(photos: Path) -> None:
    (photos.parent / IGNORE_FILE).write_text("*\n")
    ignoring = Ignoring(photos)
    assert len(list(walk([photos / "trip"], ignoring=ignoring))) == 3
    elsewhere = Ignoring(photos / "old")
    assert len(list(walk([photos / "trip"], ignoring=elsewhere))) == 3


def test_a_root_that_is_a_file_is_never_left_out(photos: Path) -> None:
    (photos / IGNORE_FILE).write_text("*\n")
    ignoring = Ignoring(photos)
    assert [file.path.name for file in walk([photos / "a.jpg"], ignoring=ignoring)] == ["a.jpg"]


def test_files_that_no_walk_came_near_are_not_left_out(photos: Path) -> None:
    ignoring = Ignoring(photos, ["*"])
    list(walk([photos / "trip"], ignoring=ignoring))
    assert not ignoring.ignores_file(photos / "a.jpg")
    assert ignoring.ignores_file(photos / "trip/never there.jpg")
