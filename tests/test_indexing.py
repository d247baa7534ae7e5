"""Incremental indexing, on real files with a deterministic encoder."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from prolip_search import ingestion
from prolip_search.engine import SearchEngine
from prolip_search.errors import QueryError, UnreadableImage
from prolip_search.indexing import IndexReport
from prolip_search.ingestion import item_id
from prolip_search.testing import FakeEncoder
from tests.ordinary_user import ordinary_user

COLOURS = ["red", "green", "blue", "yellow", "white", "black"]


def draw(path: Path, colour: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), colour).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for colour in COLOURS:
        draw(tmp_path / "photos" / f"{colour}.png", colour)
    return tmp_path / "photos"


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    return SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())


def items(engine: SearchEngine) -> pa.Table:
    """All items, in an order that does not depend on how they got there."""
    columns = ["id", "path", "content_hash", "size_bytes", "mtime_ns", "width", "uncertainty"]
    return engine.store.table(columns).sort_by("path")


def n_encoded(engine: SearchEngine) -> int:
    encoder = engine.encoder
    assert isinstance(encoder, FakeEncoder)
    return encoder.n_images_encoded


def counts(report: IndexReport) -> dict[str, int]:
    names = ["n_added", "n_changed", "n_moved", "n_unchanged", "n_removed", "n_missing"]
    found = {name[2:]: getattr(report, name) for name in names if getattr(report, name)}
    return found | ({"skipped": len(report.skipped)} if report.skipped else {})


def test_everything_is_indexed_once_and_nothing_twice(engine: SearchEngine, photos: Path) -> None:
    assert counts(engine.index(photos)) == {"added": 6}
    once = items(engine)
    assert once["path"].to_pylist() == sorted(f"photos/{colour}.png" for colour in COLOURS)
    assert counts(engine.index(photos)) == {"unchanged": 6}
    assert items(engine) == once
    assert n_encoded(engine) == 6


def test_what_the_camera_wrote_is_kept(engine: SearchEngine, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Canon", "EOS R5", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (45.0, 30.0, 0.0), 3: "W", 4: (7.0, 15.0, 0.0)})
    (tmp_path / "album").mkdir()
    Image.new("RGB", (32, 24), "red").save(tmp_path / "album/photo.jpg", exif=exif)
    engine.index(tmp_path / "album")
    columns = ["folder", "format", "width", "height", "orientation", "camera_make"]
    columns += ["camera_model", "latitude", "longitude", "altitude_m", "taken_at"]
    row = engine.store.table(columns).to_pylist()[0]
    assert row == {
        "folder": "album",
        "format": "JPEG",
        "width": 24,  # upright
        "height": 32,
        "orientation": 6,
        "camera_make": "Canon",
        "camera_model": "EOS R5",
        "latitude": 45.5,
        "longitude": -7.25,
        "altitude_m": None,
        "taken_at": None,
    }


def test_only_what_is_new_or_changed_is_encoded(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    draw(photos / "pink.png", "pink")
    draw(photos / "red.png", "darkred")
    assert counts(engine.index(photos)) == {"added": 1, "changed": 1, "unchanged": 5}
    assert n_encoded(engine) == 8
    assert len(items(engine)) == 7
    assert counts(engine.index(photos)) == {"unchanged": 7}


def test_a_file_that_was_only_touched_is_not_encoded(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    os.utime(photos / "red.png", ns=(1, 1))
    assert counts(engine.index(photos)) == {"unchanged": 6}
    assert n_encoded(engine) == 6
    assert 1 in items(engine)["mtime_ns"].to_pylist()


def test_a_moved_file_keeps_its_id_and_is_not_encoded(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    before = dict(zip(*items(engine).select(["path", "id"]).to_pydict().values(), strict=True))
    (photos / "album").mkdir()
    (photos / "red.png").rename(photos / "album/crimson.png")
    assert counts(engine.index(photos)) == {"moved": 1, "unchanged": 5}
    after = dict(zip(*items(engine).select(["path", "id"]).to_pydict().values(), strict=True))
    assert after["photos/album/crimson.png"] == before["photos/red.png"]
    assert "photos/red.png" not in after
    assert n_encoded(engine) == 6


def test_a_file_moved_between_two_roots_is_recognised(engine: SearchEngine, tmp_path: Path) -> None:
    draw(tmp_path / "a/red.png", "red")
    draw(tmp_path / "b/blue.png", "blue")
    engine.index([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a/red.png").rename(tmp_path / "b/red.png")
    assert counts(engine.index(tmp_path / "b")) == {"moved": 1, "unchanged": 1}


def test_a_file_moved_onto_another_replaces_it(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    (photos / "red.png").rename(photos / "blue.png")
    assert counts(engine.index(photos)) == {"moved": 1, "unchanged": 4}
    assert len(items(engine)) == 5
    assert engine.search("red", 1)[0].path == "photos/blue.png"


def test_a_copy_is_an_item_of_its_own(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    (photos / "copy.png").write_bytes((photos / "red.png").read_bytes())
    assert counts(engine.index(photos)) == {"added": 1, "unchanged": 6}
    assert n_encoded(engine) == 6
    assert_twins(engine, "photos/copy.png", "photos/red.png")


def assert_twins(engine: SearchEngine, first: str, second: str) -> None:
    """Two items of the same content: everything but the file is the same."""
    rows = [engine.store.row_of_path(path) for path in (first, second)]
    assert None not in rows
    ids = engine.store.rows(rows, ["id"])["id"].to_pylist()
    assert ids[0] != ids[1]
    columns = ["content_hash", "width", "height", "format", "size_bytes", "uncertainty", "mean"]
    one, other = engine.store.rows(rows, columns).to_pylist()
    assert one == other


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_files_of_the_same_bytes_are_encoded_once(
    engine: SearchEngine, photos: Path, batch_size: int
) -> None:
    for number in range(5):
        for colour in ("red", "blue"):
            copy = photos / f"copies/{number} {colour}.png"
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes((photos / f"{colour}.png").read_bytes())
    report = engine.index(photos, batch_size=batch_size)
    assert counts(report) == {"added": 16}
    assert n_encoded(engine) == 6
    assert_twins(engine, "photos/copies/3 blue.png", "photos/blue.png")
    assert counts(engine.index(photos)) == {"unchanged": 16}


def test_a_copy_of_a_file_that_changes_in_the_same_run_is_right(
    engine: SearchEngine, photos: Path
) -> None:
    engine.index(photos)
    old = (photos / "black.png").read_bytes()
    draw(photos / "black.png", "whitesmoke")
    (photos / "another.png").write_bytes(old)  # before black.png in the order of the walk
    (photos / "zebra.png").write_bytes(old)  # after it
    report = engine.index(photos, batch_size=1)
    assert counts(report) == {"added": 2, "changed": 1, "unchanged": 5}
    assert_twins(engine, "photos/another.png", "photos/zebra.png")
    (photos / "green.png").write_bytes(old)
    assert counts(engine.index(photos)) == {"changed": 1, "unchanged": 7}
    assert_twins(engine, "photos/green.png", "photos/zebra.png")
    assert len(items(engine)) == 8


def test_of_two_copies_of_a_lost_file_one_is_the_moved_one(
    engine: SearchEngine, photos: Path
) -> None:
    engine.index(photos)
    data = (photos / "red.png").read_bytes()
    (photos / "red.png").unlink()
    for name in ("one.png", "two.png"):
        (photos / name).write_bytes(data)
    assert counts(engine.index(photos)) == {"moved": 1, "added": 1, "unchanged": 5}
    assert len(set(items(engine)["id"].to_pylist())) == 7


def test_a_copy_that_comes_back_to_the_first_place_gets_an_id_of_its_own(
    engine: SearchEngine, photos: Path
) -> None:
    engine.index(photos)
    data = (photos / "red.png").read_bytes()
    (photos / "red.png").rename(photos / "moved.png")
    engine.index(photos)
    (photos / "red.png").write_bytes(data)
    assert counts(engine.index(photos)) == {"added": 1, "unchanged": 6}
    assert len(set(items(engine)["id"].to_pylist())) == 7


def test_what_is_gone_is_dropped_but_only_under_the_paths_given(
    engine: SearchEngine, tmp_path: Path
) -> None:
    for name in ("a/red.png", "a/blue.png", "b/green.png", "b/white.png"):
        draw(tmp_path / name, name[2:-4])
    engine.index([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a/red.png").unlink()
    (tmp_path / "b/green.png").unlink()
    assert counts(engine.index(tmp_path / "a")) == {"unchanged": 1, "removed": 1}
    assert items(engine)["path"].to_pylist() == ["a/blue.png", "b/green.png", "b/white.png"]


def test_an_empty_folder_may_be_an_unmounted_disk_and_drops_nothing(
    engine: SearchEngine, photos: Path
) -> None:
    engine.index(photos)
    for photo in photos.iterdir():
        photo.unlink()
    report = engine.index(photos)
    assert counts(report) == {"missing": 6}
    assert "mounted" in report.notes[0]
    assert len(items(engine)) == 6


def test_an_unreadable_folder_drops_nothing(engine: SearchEngine, photos: Path) -> None:
    draw(photos / "album/pink.png", "pink")
    engine.index(photos)
    (photos / "album").chmod(0)
    with ordinary_user():
        report = engine.index(photos)
    (photos / "album").chmod(0o755)
    assert [(skip.path, skip.reason) for skip in report.skipped] == [("photos/album", "permission")]
    assert len(items(engine)) == 7
    assert counts(engine.index(photos)) == {"unchanged": 7}
    assert engine.status().n_skipped == {}


def test_a_file_named_by_hand_stays_when_its_folder_is_indexed(
    engine: SearchEngine, photos: Path
) -> None:
    (photos / "scan").write_bytes((photos / "red.png").read_bytes() + b"x")
    engine.index(photos / "scan")
    assert counts(engine.index(photos)) == {"added": 6, "unchanged": 1}


def test_a_path_that_does_not_exist_is_an_error(engine: SearchEngine, photos: Path) -> None:
    with pytest.raises(QueryError, match="no file or folder"):
        engine.index([photos, photos / "nothing"])


def test_the_index_folder_is_never_indexed(engine: SearchEngine, tmp_path: Path) -> None:
    draw(tmp_path / "visible" / "red.png", "red")
    inside = SearchEngine.create(tmp_path / "visible/index", encoder=FakeEncoder())
    draw(tmp_path / "visible/index/blue.png", "blue")
    assert counts(inside.index(tmp_path / "visible")) == {"added": 1}


def test_overlapping_paths_count_every_file_once(engine: SearchEngine, photos: Path) -> None:
    assert counts(engine.index([photos, photos / "red.png", photos])) == {"added": 6}


# --- bad files


@pytest.fixture
def bad_files(photos: Path) -> Path:
    (photos / "empty.jpg").touch()
    (photos / "letter.jpg").write_text("Dear diary")
    half = (photos / "red.png").read_bytes()
    (photos / "half.png").write_bytes(half[: len(half) * 2 // 3])
    (photos / "forbidden.png").write_bytes(half)
    (photos / "forbidden.png").chmod(0)
    draw(photos / "two\nlines.png", "cyan")
    os.mkfifo(photos / "pipe.png")
    return photos


def test_bad_files_are_listed_and_the_good_ones_indexed(
    engine: SearchEngine, bad_files: Path
) -> None:
    with ordinary_user():
        report = engine.index(bad_files)
    assert {skip.path.removeprefix("photos/"): skip.reason for skip in report.skipped} == {
        "empty.jpg": "empty",
        "letter.jpg": "not_an_image",
        "half.png": "truncated",
        "forbidden.png": "permission",
        "pipe.png": "unsupported",
    }
    assert report.n_added == 7
    assert "photos/two\nlines.png" in items(engine)["path"].to_pylist()
    assert engine.status().n_skipped == {
        "empty": 1,
        "not_an_image": 1,
        "permission": 1,
        "truncated": 1,
        "unsupported": 1,
    }


def test_bad_files_are_not_read_again_until_they_change(
    engine: SearchEngine, bad_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ordinary_user():
        first = engine.index(bad_files)
        read: list[str] = []
        read_file = ingestion.read_file
        monkeypatch.setattr(
            ingestion, "read_file", lambda path: (read.append(path.name), read_file(path))[1]
        )
        assert engine.index(bad_files).skipped == first.skipped
    assert read == ["forbidden.png"]  # permissions change without the file changing
    draw(bad_files / "letter.jpg", "pink")
    (bad_files / "empty.jpg").unlink()
    report = engine.index(bad_files)
    assert report.n_added == 2  # the letter, now a picture; the forbidden, which root may read
    assert set(engine.status().n_skipped) == {"truncated", "unsupported"}


def test_skips_elsewhere_stay_listed(engine: SearchEngine, photos: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").touch()
    engine.index(photos)
    draw(tmp_path / "album/pink.png", "pink")
    engine.index(tmp_path / "album")
    assert engine.status().n_skipped == {"empty": 1}


def test_a_photo_that_turns_bad_leaves_the_index(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    (photos / "red.png").write_bytes(b"")
    assert counts(engine.index(photos)) == {"unchanged": 5, "removed": 1, "skipped": 1}
    assert len(items(engine)) == 5


def test_a_photo_that_cannot_be_read_for_now_stays(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    draw(photos / "red.png", "darkred").chmod(0)
    with ordinary_user():
        assert counts(engine.index(photos)) == {"unchanged": 5, "skipped": 1}
    assert len(items(engine)) == 6


def test_names_that_are_not_text_are_skipped(engine: SearchEngine, photos: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        draw(photos / name, "pink")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    report = engine.index(photos)
    assert [(skip.path, skip.reason) for skip in report.skipped] == [
        (r"photos/caf\xe9.png", "unsupported")
    ]


# --- batches and interruptions


def test_a_small_batch_gives_the_same_index_as_a_large_one(photos: Path, tmp_path: Path) -> None:
    tables = []
    for batch_size in (1, 4, 256):
        folder = tmp_path / f"index{batch_size}"
        engine = SearchEngine.create(folder, encoder=FakeEncoder())
        engine.index(photos, batch_size=batch_size)
        tables.append(items(engine))
    assert tables[0] == tables[1] == tables[2]


def test_reading_goes_on_while_the_encoder_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_on = threading.Event()
    last = f"{ingestion.ENCODE_SIZE + 8:03}.png"

    class SlowEncoder(FakeEncoder):
        waited = True

        def encode_prepared(self, batch):  # type: ignore[no-untyped-def]  # as in FakeEncoder
            self.waited &= read_on.wait(timeout=30)
            return super().encode_prepared(batch)

    def read_file(path: Path) -> bytes:
        if path.name == last:
            read_on.set()
        return path.read_bytes()

    monkeypatch.setattr(ingestion, "read_file", read_file)
    for number in range(ingestion.ENCODE_SIZE + 9):
        draw(tmp_path / f"photos/{number:03}.png", f"#{number:02x}4080")
    encoder = SlowEncoder()
    SearchEngine.create(tmp_path / ".prolip-search", encoder=encoder).index(tmp_path / "photos")
    assert encoder.waited


def test_progress_counts_to_the_end(engine: SearchEngine, photos: Path) -> None:
    seen: list[tuple[int, int]] = []
    engine.index(photos, progress=lambda n_done, n_total: seen.append((n_done, n_total)))
    assert seen == [(n, 6) for n in range(1, 7)]


class Interrupted(FakeEncoder):
    """Stops, as Ctrl-C does, when it has encoded so many pictures."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def encode_prepared(self, batch):  # type: ignore[no-untyped-def]  # as in FakeEncoder
        if self.n_images_encoded >= self.after:
            raise KeyboardInterrupt
        return super().encode_prepared(batch)


def test_ctrl_c_leaves_a_valid_index_and_the_next_run_goes_on(photos: Path, tmp_path: Path) -> None:
    engine = SearchEngine.create(tmp_path / ".prolip-search", encoder=Interrupted(after=4))
    with pytest.raises(KeyboardInterrupt):
        engine.index(photos, batch_size=2)
    fresh = SearchEngine.open(tmp_path / ".prolip-search", encoder=FakeEncoder())
    assert fresh.store.count() == 4
    assert counts(fresh.index(photos, batch_size=2)) == {"added": 2, "unchanged": 4}
    assert n_encoded(fresh) == 2


def test_a_killed_run_resumes_to_the_same_index_as_an_uninterrupted_one(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    n_photos, batch_size = 24, 4
    for n in range(n_photos):
        draw(photos / f"{n:02}.png", f"#{n * 10:02x}{255 - n * 10:02x}40")
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from prolip_search.engine import SearchEngine
        from prolip_search.testing import FakeEncoder

        class Killed(FakeEncoder):
            def encode_prepared(self, batch):
                with open(sys.argv[2], "a") as log:
                    log.write("x" * len(batch))
                if self.n_images_encoded >= int(sys.argv[3]):
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().encode_prepared(batch)

        folder = sys.argv[1]
        create = not os.path.exists(folder)
        engine = (SearchEngine.create if create else SearchEngine.open)(folder, encoder=Killed())
        engine.index({str(photos)!r}, batch_size={batch_size})
        """
    )

    def run(name: str, kill_after: int) -> int:
        command = [sys.executable, "-c", script, str(tmp_path / name), str(tmp_path / "log")]
        return subprocess.run([*command, str(kill_after)], check=False).returncode

    assert run("killed", kill_after=8) == -9
    assert run("killed", kill_after=4) == -9
    assert run("killed", kill_after=1000) == 0
    log = (tmp_path / "log").read_text()
    assert n_photos <= len(log) <= n_photos + 2 * batch_size  # at most a batch again for each kill
    assert run("whole", kill_after=1000) == 0
    killed, whole = (
        SearchEngine.open(tmp_path / name, encoder=FakeEncoder()) for name in ("killed", "whole")
    )
    assert items(killed) == items(whole)
    first, second = (engine.search("green", n_photos) for engine in (killed, whole))
    assert (first.ids, first.csd.tolist()) == (second.ids, second.csd.tolist())


def test_a_row_left_over_by_a_crash_is_dropped(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    row = engine.store.row_of_path("photos/red.png")
    columns = ["kind", "path", "content_hash", "mean", "log_variance"]
    stale = engine.store.rows([row], columns)
    extra = {"id": ["stale"], "size_bytes": [1], "mtime_ns": [1]}
    for name, values in extra.items():
        stale = stale.append_column(name, pa.array(values))
    engine.store.append(stale)
    assert counts(engine.index(photos)) == {"unchanged": 6}
    assert "stale" not in items(engine)["id"].to_pylist()


def test_ids_depend_on_content_and_path_and_avoid_those_that_are_taken() -> None:
    taken: set[str] = set()
    first = item_id("hash", "path", taken)
    assert item_id("hash", "path", set()) == first
    assert item_id("hash", "path", taken) != first
    assert item_id("hash", "path2", set()) != first
    assert len(first) == 16


def test_unreadable_image_says_which_file_and_why() -> None:
    assert str(UnreadableImage(Path("a.jpg"), "not_an_image")) == "a.jpg: not an image"


@pytest.fixture(autouse=True)
def _modes_are_reset(tmp_path: Path) -> Iterator[None]:
    yield
    for path in tmp_path.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


# Roots: what is away is not deleted


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Twenty photos in two folders, ten of them in photos/trip."""
    for number in range(20):
        folder = "photos/trip" if number % 2 else "photos/home"
        draw(tmp_path / folder / f"{number:02}.png", f"#{number * 12:02x}4080")
    return tmp_path / "photos"


def test_without_paths_the_folders_of_earlier_runs_are_looked_at(
    engine: SearchEngine, tmp_path: Path
) -> None:
    with pytest.raises(QueryError, match="remembers no folder"):
        engine.index()
    draw(tmp_path / "a/red.png", "red")
    draw(tmp_path / "b/blue.png", "blue")
    engine.index(tmp_path / "a")
    engine.index([tmp_path / "b", tmp_path / "a/red.png"])
    assert engine.store.manifest.roots == ("a", "b")
    draw(tmp_path / "b/green.png", "green")
    reopened = SearchEngine.open(tmp_path / ".prolip-search", encoder=FakeEncoder())
    assert counts(reopened.index()) == {"added": 1, "unchanged": 2}
    fresh, report = SearchEngine.rebuild(tmp_path / ".prolip-search", encoder=FakeEncoder())
    assert (counts(report), fresh.store.manifest.roots) == ({"added": 3}, ("a", "b"))


def test_a_root_that_is_not_there_is_kept_until_it_is_pruned(
    engine: SearchEngine, tmp_path: Path
) -> None:
    draw(tmp_path / "a/red.png", "red")
    draw(tmp_path / "b/blue.png", "blue")
    engine.index([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    report = engine.index()
    assert counts(report) == {"unchanged": 1, "missing": 1}
    assert report.notes[0].startswith(f"{tmp_path / 'b'} is not there: is its disk mounted?")
    with pytest.raises(QueryError, match=r"There is no file or folder.*--prune"):
        engine.index(tmp_path / "b")
    assert len(items(engine)) == 2
    assert counts(engine.index(tmp_path / "b", prune=True)) == {"removed": 1}
    assert engine.store.manifest.roots == ("a",)
    with pytest.raises(QueryError, match="There is no file or folder"):
        engine.index(tmp_path / "b", prune=True)


def test_an_emptied_root_is_pruned_only_when_asked(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    for photo in photos.iterdir():
        photo.unlink()
    report = engine.index(photos)
    assert (counts(report), report.n_photos) == ({"missing": 6}, 6)
    assert counts(engine.index(photos, prune=True)) == {"removed": 6}


def test_most_of_a_folder_is_not_dropped_at_once(engine: SearchEngine, many: Path) -> None:
    engine.index(many)
    for number in range(11):
        next(many.rglob(f"{number:02}.png")).unlink()
    report = engine.index(many)
    assert counts(report) == {"unchanged": 9, "missing": 11}
    assert report.notes == (
        f"11 of the 20 files that the index holds from {many} are gone: is all of it mounted? "
        "They are kept; --prune drops them.",
    )
    assert len(items(engine)) == 20
    draw(many / "home/00.png", "#004080")
    assert counts(engine.index(many)) == {"unchanged": 10, "removed": 10}  # half, and no more


def test_a_disk_below_a_root_is_protected_once_it_was_a_root_itself(
    engine: SearchEngine, many: Path
) -> None:
    for number in range(20, 60):
        draw(many / f"home/{number}.png", f"#40{number * 4:02x}80")
    engine.index([many / "trip", many])
    for photo in (many / "trip").iterdir():
        photo.unlink()
    (many / "trip/lost+found").mkdir()
    assert counts(engine.index(many)) == {"unchanged": 50, "missing": 10}
    assert counts(engine.index(many, prune=True)) == {"unchanged": 50, "removed": 10}


def test_few_files_may_go_whatever_their_share(engine: SearchEngine, photos: Path) -> None:
    engine.index(photos)
    for colour in COLOURS[1:]:
        (photos / f"{colour}.png").unlink()
    assert counts(engine.index(photos)) == {"unchanged": 1, "removed": 5}


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_that_moved_is_recognised_and_not_missing(
    engine: SearchEngine, many: Path, tmp_path: Path, whole: bool
) -> None:
    engine.index(many)
    ids = sorted(items(engine)["id"].to_pylist())
    (tmp_path / "pictures").mkdir()
    for folder in ("home", "trip") if whole else ("trip",):
        (many / folder).rename(tmp_path / "pictures" / folder)
    report = engine.index([many, tmp_path / "pictures"])
    assert counts(report) == ({"moved": 20} if whole else {"moved": 10, "unchanged": 10})
    assert report.notes == ()
    assert sorted(items(engine)["id"].to_pylist()) == ids
    assert n_encoded(engine) == 20


def test_a_folder_whose_name_is_no_text_is_not_remembered(
    engine: SearchEngine, tmp_path: Path
) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    draw(tmp_path / "good/red.png", "red")
    Path(folder).mkdir()
    engine.index([tmp_path / "good", folder])
    assert engine.store.manifest.roots == ("good",)
    assert engine.index().notes == ()


# Patterns


def test_what_a_pattern_leaves_out_now_is_dropped(engine: SearchEngine, photos: Path) -> None:
    draw(photos / "raw/pink.png", "pink")
    draw(photos / "raw/keep/brown.png", "brown")
    engine.index(photos)
    report = engine.index(photos, exclude=["raw/", "*e.png", "!white.png"])
    assert counts(report) == {"unchanged": 5, "removed": 3}
    (photos / ".prolip-search-ignore").write_text("/raw/\n")
    assert counts(engine.index(photos)) == {"added": 1, "unchanged": 5}
    (photos / ".prolip-search-ignore").unlink()
    assert counts(engine.index(photos)) == {"added": 2, "unchanged": 6}


def test_most_of_a_folder_may_be_left_out_at_once(engine: SearchEngine, many: Path) -> None:
    engine.index(many)
    assert counts(engine.index(many, exclude=["*1*.png", "trip"])) == {
        "unchanged": 5,
        "removed": 15,
    }


def test_an_ignore_file_holds_for_folders_that_are_indexed_by_themselves(
    engine: SearchEngine, many: Path
) -> None:
    (many / ".prolip-search-ignore").write_text("trip/*1.png\n")
    assert counts(engine.index(many / "trip")) == {"added": 8}
    assert counts(engine.index(many)) == {"added": 10, "unchanged": 8}


def test_a_file_that_is_left_out_can_be_named_by_hand(engine: SearchEngine, photos: Path) -> None:
    (photos / ".prolip-search-ignore").write_text("red.png\n")
    assert counts(engine.index([photos, photos / "red.png"])) == {"added": 6}


def test_a_pattern_that_is_none_is_refused_by_name(engine: SearchEngine, photos: Path) -> None:
    with pytest.raises(QueryError, match=r"--exclude: '!' is no pattern"):
        engine.index(photos, exclude=["*.png", "!"])
    (photos / ".prolip-search-ignore").write_text("fine\n!\n")
    with pytest.raises(QueryError, match=r"prolip-search-ignore: '!' is no pattern"):
        engine.index(photos)


def test_an_ignore_file_that_cannot_be_read_is_listed(engine: SearchEngine, photos: Path) -> None:
    (photos / ".prolip-search-ignore").write_text("*.png")
    (photos / ".prolip-search-ignore").chmod(0)
    with ordinary_user():
        report = engine.index(photos)
    assert [(skip.path, skip.reason) for skip in report.skipped] == [("photos", "permission")]
