from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from prolip_search import engine as engine_module
from prolip_search.testing import FakeEncoder
from tests.cli.conftest import Run
from tests.golden_files import assert_golden
from tests.ordinary_user import ordinary_user


@pytest.fixture
def bad_files(photos: Path) -> Path:
    """Beside the good photos: one of each kind of bad file, and a good one with an odd name."""
    Image.new("RGB", (32, 24), "cyan").save(photos / "two\nlines.png")
    half = (photos / "two\nlines.png").read_bytes()
    (photos / "half.png").write_bytes(half[: len(half) * 2 // 3])
    (photos / "letter.jpg").write_text("Dear diary")
    (photos / "empty.jpg").touch()
    (photos / "forbidden.png").write_bytes(half)
    (photos / "forbidden.png").chmod(0)
    return photos


def without_time(text: str) -> str:
    return re.sub(r"\d+\.\d s, \d+ photos/s|\d+\.\d s", "TIME", text)


def test_an_index_is_made_here_and_brought_up_to_date(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    ran = run("index", photos)
    assert (ran.status, ran.err) == (0, "")
    assert without_time(ran.out) == "6 photos in the index: 6 new (TIME)\n"
    assert (tmp_path / ".prolip-search/manifest.json").is_file()
    (photos / "red.ppm").rename(photos / "crimson.ppm")
    (photos / "blue.ppm").unlink()
    Image.new("RGB", (32, 24), "pink").save(photos / "pink.ppm")
    out = without_time(run("index", photos).out)
    assert out == "6 photos in the index: 1 new, 1 moved, 4 unchanged, 1 gone (TIME)\n"


def test_the_index_above_is_used_from_below(
    run: Run, indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(indexed)
    assert "6 unchanged" in run("index", ".").out
    assert not (indexed / ".prolip-search").exists()


def test_bad_files_are_named_and_the_rest_is_indexed(
    run: Run, bad_files: Path, tmp_path: Path
) -> None:
    with ordinary_user():
        ran = run("index", bad_files, "--report", tmp_path / "report.jsonl")
    assert ran.status == 0
    assert without_time(ran.out) == "7 photos in the index: 7 new, 4 skipped (TIME)\n"
    assert_golden("index-skipped.txt", ran.err)
    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert {skip["path"]: skip["reason"] for skip in report} == {
        "photos/empty.jpg": "empty",
        "photos/forbidden.png": "permission",
        "photos/half.png": "truncated",
        "photos/letter.jpg": "not_an_image",
    }
    found = json.loads(run("query", "cyan", "-k", "1", "--json").out)
    assert found["results"][0]["path"] == "photos/two\nlines.png"
    status = json.loads(run("status", "--json").out)
    assert (status["n_images"], status["n_skipped"]) == (7, 4)


def test_strict_makes_skips_count(run: Run, bad_files: Path) -> None:
    with ordinary_user():
        assert run("index", bad_files, "--strict").status == 1
        assert run("index", bad_files, "--strict").status == 1
        assert run("index", bad_files).status == 0


def test_strict_is_satisfied_by_good_photos(run: Run, photos: Path) -> None:
    assert run("index", photos, "--strict").status == 0


def test_nothing_but_bad_files_is_an_error_and_nothing_at_all_is_status_1(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    ran = run("index", "photos")
    assert (ran.status, ran.out.startswith("0 photos in the index: no photos found")) == (1, True)
    (tmp_path / "photos/letter.jpg").write_text("Dear diary")
    ran = run("index", "photos")
    assert ran.status == 2
    assert "not an image" in ran.err


def test_many_bad_files_are_counted_and_not_all_listed(run: Run, photos: Path) -> None:
    for number in range(30):
        (photos / f"empty{number:02}.jpg").touch()
    ran = run("index", photos)
    assert ran.err.count("skipped ") == 10
    assert ran.err.endswith("and 20 more; --report FILE lists all of them\n")


def test_a_report_that_cannot_be_written_is_one_line(run: Run, photos: Path) -> None:
    ran = run("index", photos, "--report", "no/such/folder.jsonl")
    assert ran.status == 2
    assert ran.err.startswith("prolip-search: The report cannot be written to")


def test_ctrl_c_says_that_what_was_done_is_kept(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FakeEncoder):
        def encode_prepared(self, batch):  # type: ignore[no-untyped-def]  # as in FakeEncoder
            if self.n_images_encoded:
                raise KeyboardInterrupt
            return super().encode_prepared(batch)

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "load_encoder", lambda name, **options: Interrupted())
        ran = run("index", photos, "--batch-size", "2")
    assert (ran.status, ran.out) == (130, "")
    assert "run the same command" in ran.err
    out = without_time(run("index", photos).out)
    assert out == "6 photos in the index: 4 new, 2 unchanged (TIME)\n"


def test_another_encoder_needs_a_rebuild(run: Run, indexed: Path, tmp_path: Path) -> None:
    refused = run("index", indexed, "--encoder", "other")
    assert refused.status == 2
    assert "prolip-search index --rebuild" in refused.err
    out = without_time(run("index", indexed, "--encoder", "other", "--rebuild").out)
    assert out == "6 photos in the index: 6 new (TIME)\n"
    assert [path.name for path in tmp_path.iterdir() if "prolip" in path.name] == [".prolip-search"]
    assert "6 unchanged" in run("index", indexed, "--encoder", "other").out


def test_a_rebuild_keeps_the_encoder_and_forgets_the_rest(
    run: Run, indexed: Path, tmp_path: Path
) -> None:
    (tmp_path / "album").mkdir()
    Image.new("RGB", (32, 24), "pink").save(tmp_path / "album/pink.ppm")
    out = without_time(run("index", "album", "--rebuild").out)
    assert out == "1 photo in the index: 1 new (TIME)\n"
    assert json.loads(run("status", "--json").out)["n_images"] == 1


def test_a_damaged_index_can_be_rebuilt(run: Run, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / ".prolip-search/manifest.json").write_text("{")
    assert run("index", indexed).status == 2
    assert run("index", indexed, "--rebuild").status == 0
    assert run("query", "red").status == 0


def test_an_index_is_not_made_among_other_files(run: Run, photos: Path) -> None:
    ran = run("index", photos, "--index", photos)
    assert ran.status == 2
    assert "a folder of its own" in ran.err


def test_status_for_people(run: Run, indexed: Path) -> None:
    out = run("status").out
    assert "photos     6" in out
    assert "fake" in out
    assert "not calibrated" in out


def test_the_demo_shows_the_main_job_on_a_folder(run: Run, photos: Path, tmp_path: Path) -> None:
    ran = run("demo", photos, "-k", "1")
    assert ran.status == 0
    assert ran.out.count("prolip-search query") == 5
    assert ".ppm" in ran.out
    assert not (tmp_path / ".prolip-search").exists()


def test_the_demo_has_photos_of_its_own(run: Run) -> None:
    if find_spec("skimage") is None:
        pytest.skip("needs the extra `demo`")
    ran = run("demo", "-k", "2")
    assert ran.status == 0
    assert ran.out.startswith("14 photos in the index: 14 new")
    assert ran.out.count("\n") == 1 + 5 * 4


def test_the_demo_without_its_photos_says_how_to_get_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prolip_search.cli.demo.find_spec", lambda name: None)
    ran = run("demo")
    assert ran.status == 2
    assert 'pip install "prolip-search[demo]"' in ran.err


def test_without_a_path_the_folders_of_earlier_runs_are_brought_up_to_date(
    run: Run, indexed: Path
) -> None:
    Image.new("RGB", (32, 24), "pink").save(indexed / "pink.ppm")
    out = without_time(run("index").out)
    assert out == "7 photos in the index: 1 new, 6 unchanged (TIME)\n"
    assert "folders    photos" in run("status").out
    assert json.loads(run("status", "--json").out)["roots"] == [str(indexed)]
    assert "7 new" in run("index", "--rebuild").out


def test_a_typing_error_makes_no_index(run: Run, tmp_path: Path) -> None:
    assert run("index", "fotos").status == 2
    assert run("index").status == 2
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_on_another_disk_is_kept_until_pruned(run: Run, indexed: Path) -> None:
    for photo in indexed.iterdir():
        photo.unlink()
    ran = run("index")
    assert ran.status == 0
    assert without_time(ran.out) == "6 photos in the index: 6 missing but kept (TIME)\n"
    assert ran.err.endswith("--prune drops it.\n")
    indexed.rmdir()
    assert run("index", "photos").status == 2
    ran = run("index", "photos", "--prune")
    assert without_time(ran.out) == "0 photos in the index: 6 gone (TIME)\n"


def test_patterns_leave_photos_out(run: Run, photos: Path) -> None:
    out = run("index", photos, "--exclude", "*e.ppm", "--exclude", "!white.ppm").out
    assert out.startswith("5 photos in the index")
    (photos / ".prolip-search-ignore").write_text("red.ppm\n")
    assert run("index", photos).out.startswith("5 photos in the index: 1 new, 4 unchanged, 1 gone")
    refused = run("index", photos, "--exclude", "!")
    assert (refused.status, refused.err.count("\n")) == (2, 1)


def test_watching_ends_with_ctrl_c_and_status_0(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch(*roots: Path, **options: object) -> Iterator[set[object]]:
        """As watchfiles does: nothing for a while, a change, a change that is none, Ctrl-C."""
        assert list(roots) == [photos]
        yield set()
        Image.new("RGB", (32, 24), "pink").save(photos / "pink.ppm")
        yield {"a change"}
        yield {"a change"}
        raise KeyboardInterrupt

    monkeypatch.setattr("watchfiles.watch", watch)
    ran = run("index", photos, "--watch")
    assert ran.status == 0
    assert without_time(ran.out).splitlines() == [
        "6 photos in the index: 6 new (TIME)",
        "7 photos in the index: 1 new, 6 unchanged (TIME)",
    ]
    assert ran.err.startswith("Watching for changes; Ctrl-C ends it.\n")
