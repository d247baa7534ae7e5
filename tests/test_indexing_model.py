"""Indexing against a plain model: whatever happens to the files, the index ends as the disk is."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from prolip_search.engine import SearchEngine
from prolip_search.files import content_hash
from prolip_search.indexes.store import Store
from prolip_search.testing import FakeEncoder

N_STEPS = 12
FOLDERS = ["photos", "photos/a", "photos/b"]


class Library:
    """A folder of tiny pictures, some of them bad, that changes at random."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.clock = 1_000_000
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True)

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.glob("photos/**/*") if path.is_file())

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        self.touch(path)

    def touch(self, path: Path) -> None:
        self.clock += 1_000_000_000  # file systems with coarse clocks would hide a change
        os.utime(path, ns=(self.clock, self.clock))

    def new_path(self) -> Path:
        folder = self.root / self.random.choice(FOLDERS)
        return folder / f"{self.random.randrange(30)}.ppm"

    def picture(self) -> bytes:
        # A few contents only, so that copies and exchanges are common; one in eight is bad.
        if self.random.random() < 1 / 8:
            return self.random.choice([b"", b"text", b"P6 2 2 255 half"])
        return b"P6 2 2 255 " + bytes([self.random.randrange(12) * 20, 64, 128]) * 4

    def change(self) -> None:
        files = self.files()
        action = self.random.choice(["write", "write", "delete", "move", "copy", "touch", "swap"])
        if action == "write" or len(files) < 2:
            self.write(self.new_path(), self.picture())
            return
        first, second = self.random.sample(files, 2)
        if action == "delete":
            first.unlink()
        elif action == "move":
            first.rename(self.new_path())
        elif action == "copy":
            self.write(self.new_path(), first.read_bytes())
        elif action == "touch":
            self.touch(first)
        else:
            first.rename(self.root / "aside")
            second.rename(first)
            (self.root / "aside").rename(second)

    def good(self) -> dict[str, str]:
        """What an index should hold: path -> content."""
        return {
            path.relative_to(self.root).as_posix(): content_hash(data)
            for path in self.files()
            if (data := path.read_bytes()).startswith(b"P6") and not data.endswith(b"half")
        }


def held(engine: SearchEngine) -> list[tuple[str, str]]:
    columns = engine.store.table(["path", "content_hash"]).to_pydict()
    return sorted(zip(columns["path"], columns["content_hash"], strict=True))


def interrupt(patch: pytest.MonkeyPatch, generator: random.Random) -> None:
    """Lets one of the writes of a run fail, as if the process were stopped before or after it."""
    left = generator.randrange(1, 8)
    after = generator.random() < 0.5

    def stopping(name: str) -> None:
        real = getattr(Store, name)

        def method(self: Store, *arguments: object) -> object:
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise KeyboardInterrupt
            result = real(self, *arguments)
            if left == 0:
                raise KeyboardInterrupt
            return result

        patch.setattr(Store, name, method)

    for name in ("append", "delete", "move", "record_skipped", "forget_skipped", "remember_roots"):
        stopping(name)


@pytest.mark.parametrize("seed", range(8))
def test_the_index_ends_as_the_disk_is_whatever_happened(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(tmp_path, seed)
    encoder = FakeEncoder()
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=encoder)
    for step in range(N_STEPS):
        for _ in range(library.random.randrange(1, 6)):
            library.change()
        if step % 3 == 2:
            with monkeypatch.context() as patch:
                interrupt(patch, library.random)
                try:
                    engine.index(tmp_path / "photos", batch_size=2)
                except KeyboardInterrupt:
                    engine = SearchEngine.open(tmp_path / ".prolip-search", encoder=encoder)
        report = engine.index(tmp_path / "photos", batch_size=2)
        if not library.files():
            continue
        assert held(engine) == sorted(library.good().items())
        ids = engine.store.table(["id"])["id"].to_pylist()
        assert len(set(ids)) == len(ids)
        n_bad = len(library.files()) - len(library.good())
        assert (report.n_photos, len(report.skipped)) == (len(ids), n_bad)
        n_encoded = encoder.n_images_encoded
        again = engine.index(tmp_path / "photos")
        assert (again.n_unchanged, len(again.skipped)) == (len(ids), n_bad)
        assert encoder.n_images_encoded == n_encoded
        if ids:
            found = engine.search("red", len(ids) + 1)
            assert sorted(found.ids) == sorted(ids)
