"""Watching real folders with real notifications; nothing here waits for longer than it must."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from prolip_search.engine import SearchEngine
from prolip_search.indexes.store import Store
from prolip_search.indexing import IndexReport
from prolip_search.testing import FakeEncoder
from prolip_search.watching import concerns

PATIENCE_S = 30  # for a machine that is busy with other things


def draw(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), colour).save(path)


class Watcher:
    """An engine that watches in a thread of its own."""

    def __init__(self, engine: SearchEngine, *paths: Path) -> None:
        self.reports: queue.Queue[IndexReport] = queue.Queue()
        self.stop = threading.Event()

        def watch() -> None:
            for report in engine.watch(paths or None, stop=self.stop):
                self.reports.put(report)

        self.thread = threading.Thread(target=watch)
        self.thread.start()

    def next(self) -> IndexReport:
        return self.reports.get(timeout=PATIENCE_S)

    def until(self, name: str, n: int) -> int:
        """Reads reports until a count has grown by n; a burst may be cut in two."""
        total = 0
        while total < n:
            total += getattr(self.next(), name)
        return total


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos/red.png", "red")
    return tmp_path / "photos"


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    return SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())


@pytest.fixture
def watcher(engine: SearchEngine, photos: Path) -> Iterator[Watcher]:
    watcher = Watcher(engine, photos)
    yield watcher
    watcher.stop.set()
    watcher.thread.join(PATIENCE_S)
    assert not watcher.thread.is_alive()


def test_the_index_follows_what_happens_in_its_folders(
    watcher: Watcher, engine: SearchEngine, photos: Path
) -> None:
    assert watcher.next().n_added == 1
    draw(photos / "album/blue.png", "blue")
    draw(photos / "album/green.png", "green")
    assert watcher.until("n_added", 2) == 2
    (photos / "red.png").rename(photos / "crimson.png")
    assert watcher.until("n_moved", 1) == 1
    (photos / "album/blue.png").unlink()
    assert watcher.until("n_removed", 1) == 1
    paths = sorted(Store.open(engine.store.folder).table(["path"])["path"].to_pylist())
    assert paths == ["photos/album/green.png", "photos/crimson.png"]


def test_a_run_waits_while_another_process_writes(engine: SearchEngine, photos: Path) -> None:
    other = Store.open(engine.store.folder)
    with other.writer():
        watcher = Watcher(engine, photos)
    try:
        assert watcher.next().n_added == 1
    finally:
        watcher.stop.set()
        watcher.thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("photos/a.jpg", True),
        ("photos/A.HEIC", True),
        ("photos/album", True),
        ("photos/album/.prolip-search-ignore", True),
        ("photos/notes.txt", False),
        ("photos/.hidden/a.jpg", False),
        ("photos/.a.jpg", False),
        ("photos/.prolip-search/csd.json", False),
        ("photos/.prolip-search/items-01234567.lance/data/1.lance", False),
    ],
)
def test_only_what_can_change_the_index_counts(tmp_path: Path, path: str, expected: bool) -> None:
    index = tmp_path / "photos/.prolip-search"
    assert concerns(tmp_path / path, [tmp_path / "photos"], index) is expected


def test_a_library_below_a_hidden_folder_is_watched(tmp_path: Path) -> None:
    photos = tmp_path / ".cache/photos"
    assert concerns(photos / "a.jpg", [photos], tmp_path / "index")
