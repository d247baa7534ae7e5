from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.golden_files import assert_golden


def test_the_table_is_plain_in_a_pipe(run: Run, indexed: Path) -> None:
    ran = run("query", "something", "red", "-k", "3")
    assert ran.status == 0
    assert_golden("query.txt", ran.out)
    assert "uncalibrated" in ran.err
    assert "%" not in ran.out + ran.err


def test_json_is_as_reviewed(run: Run, indexed: Path, tmp_path: Path) -> None:
    ran = run("query", "something red", "-k", "2", "--json")
    assert json.loads(ran.out)["results"][0]["path"] == "photos/red.ppm"
    assert_golden("query.json", ran.out.replace(str(tmp_path), "/library"))


def test_each_line_of_standard_input_is_answered_by_one_line(
    run: Run, indexed: Path, tmp_path: Path
) -> None:
    ran = run("query", "-", "--jsonl", "-k", "1", stdin=b"red\n\n  blue  \nno such colour\n")
    assert [json.loads(line)["query"] for line in ran.out.splitlines()] == [
        "red",
        "blue",
        "no such colour",
    ]
    assert_golden("query.jsonl", ran.out.replace(str(tmp_path), "/library"))


def test_json_of_standard_input_is_a_list(run: Run, indexed: Path) -> None:
    assert len(json.loads(run("query", "-", "--json", stdin=b"red\nblue\n").out)) == 2
    assert json.loads(run("query", "-", "--json", stdin=b"red\n").out)[0]["query"] == "red"
    nothing = run("query", "-", "--json", stdin=b"")
    assert (nothing.status, json.loads(nothing.out)) == (1, [])


def test_tables_of_standard_input_say_which_query_they_answer(run: Run, indexed: Path) -> None:
    out = run("query", "-", "-k", "1", stdin=b"red\nblue\n").out.splitlines()
    assert (out[0], out[2], out[3]) == ("red", "", "blue")


def test_null_gives_paths_that_can_be_opened_from_here(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 24), "red").save(indexed / "two\nlines -- '.ppm")
    run("index", indexed)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    paths = run("query", "red", "-k", "2", "-0").out.split("\0")
    assert paths.pop() == ""
    assert {Path(path).resolve() for path in paths} == {
        indexed / "red.ppm",
        indexed / "two\nlines -- '.ppm",
    }


def test_names_cannot_command_the_terminal(run: Run, indexed: Path) -> None:
    Image.new("RGB", (32, 24), "red").save(indexed / "a\x1b[2J\nb\u202e.ppm")
    run("index", indexed)
    out = run("query", "red", "-k", "2").out
    assert r"photos/a\x1b[2J\nb\u202e.ppm" in out
    assert out.count("\n") == 2


def test_status_1_when_there_is_nothing(run: Run, indexed: Path) -> None:
    for photo in indexed.iterdir():
        photo.unlink()
    (indexed / "note.txt").touch()
    run("index", indexed)
    ran = run("query", "red")
    assert (ran.status, ran.out, ran.err) == (1, "", "Nothing matches.\n")
    assert run("query", "red", "-0").status == 1
    assert json.loads(run("query", "red", "--json").out)["results"] == []


def test_pages(run: Run, indexed: Path) -> None:
    whole = run("query", "red", "-k", "6", "-0").out
    first, second = (run("query", "red", "-k", "3", "--offset", n, "-0").out for n in ("0", "3"))
    assert whole == first + second
    past = run("query", "red", "--offset", "6")
    assert (past.status, past.err) == (1, "There are no more results.\n")


def test_a_picture_is_a_query(run: Run, indexed: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "#0505f0").save(tmp_path / "query.png")
    ran = run("query", "--image", tmp_path / "query.png", "-k", "1", "--json")
    answer = json.loads(ran.out)
    assert answer["query_kind"] == "image"
    assert answer["results"][0]["path"] == "photos/blue.ppm"


def test_an_unreadable_picture_is_one_line(run: Run, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "text\n.jpg").write_text("hello")
    ran = run("query", "--image", tmp_path / "text\n.jpg")
    assert ran.status == 2
    assert ran.err.endswith("text\\n.jpg: not an image\n")


def test_long_texts_get_a_warning(run: Run, indexed: Path) -> None:
    ran = run("query", *["red"] * 40, "-k", "1", "--jsonl")
    assert json.loads(ran.out)["truncated"] is True
    assert "longer than the encoder reads" in ran.err


def test_ranking_can_be_chosen(run: Run, indexed: Path) -> None:
    for rank_by in ("csd", "cosine", "membership"):
        ran = run("query", "red", "--rank-by", rank_by, "--jsonl")
        assert json.loads(ran.out)["rank_by"] == rank_by


def test_the_index_is_found_from_below_and_named_from_anywhere(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(indexed)
    assert run("query", "red", "-k", "1", "-0").out == "red.ppm\0"
    monkeypatch.chdir("/")
    assert run("query", "red").status == 2
    assert run("query", "red", "--index", tmp_path / ".prolip-search").status == 0
    assert run("query", "red", "--index", tmp_path).status == 0
    monkeypatch.setenv("PROLIP_SEARCH_INDEX", str(tmp_path / ".prolip-search"))
    assert run("query", "red").status == 0
    assert run("query", "red", "--index", tmp_path / "other").status == 2


def test_thumbnails_need_a_terminal_and_say_so_once(run: Run, indexed: Path) -> None:
    ran = run("query", "red", "-k", "2", "--thumbnails")
    assert ran.status == 0
    assert ran.err.count("No pictures here") == 1
    assert ran.out == run("query", "red", "-k", "2").out


def test_another_encoder_is_refused_with_the_fix(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / ".prolip-search/manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "fake"', '"name": "other"'))
    ran = run("query", "red")
    assert ran.status == 2
    assert "--rebuild" in ran.err


def test_similar_leaves_the_photo_itself_out(run: Run, indexed: Path) -> None:
    ran = run("similar", indexed / "red.ppm", "--json")
    answer = json.loads(ran.out)
    assert answer["query_kind"] == "item"
    assert "photos/red.ppm" not in [result["path"] for result in answer["results"]]
    assert len(answer["results"]) == 5


def test_similar_takes_photos_that_are_not_indexed(run: Run, indexed: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "#0505f0").save(tmp_path / "query.png")
    assert run("similar", tmp_path / "query.png", "-k", "1", "-0").out == "photos/blue.ppm\0"
    missing = run("similar", tmp_path / "nothing.png")
    assert (missing.status, missing.err.endswith("nothing.png: vanished\n")) == (2, True)


def test_filters_narrow_what_is_searched(
    run: Run, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2024:07:14 18:03:59"
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 12.0), 3: "E", 4: (8.0, 32.0, 24.0)})
    (indexed / "album").mkdir()
    Image.new("RGB", (64, 48), "pink").save(indexed / "album/pink.jpg", exif=exif)
    run("index", indexed)
    pink = "photos/album/pink.jpg\0"
    for options in (
        ["--where", "width > 32 AND taken_at >= '2024-06-01'"],
        ["--after", "2024-07"],
        ["--before", "2024-08", "--where", "format = 'JPEG'"],
        ["--in", "photos/album"],
        ["--near", "47.3,8.5,20"],
    ):
        assert run("query", "green", "-0", *options).out == pink, options
        assert run("similar", "photos/red.ppm", "-0", *options).out == pink, options
    assert run("query", "red", "-0", "--in", "photos").out.count("\0") == 7
    monkeypatch.chdir(indexed)
    assert run("query", "red", "-0", "--in", "album").out == "album/pink.jpg\0"
    nothing = run("query", "red", "--after", "2030")
    assert (nothing.status, nothing.err) == (1, "Nothing matches.\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--where", "widht > 2"], "did you mean 'width'?"),
        (["--where", "width >"], "cannot be read"),
        (["--after", "June"], "'June' is no date"),
        (["--near", "47,8"], "A place is LAT,LON,KM"),
        (["--near", "147,8,1"], "A place is a latitude"),
    ],
)
def test_a_filter_that_makes_no_sense_is_one_line(
    run: Run, indexed: Path, options: list[str], expected: str
) -> None:
    ran = run("query", "red", *options)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert expected in ran.err


@pytest.mark.parametrize("query", [["red"], ["--image", "photos/red.ppm"]])
def test_timings_say_where_the_time_went_and_change_no_result(
    run: Run, indexed: Path, query: list[str]
) -> None:
    ran = run("query", *query, "-0", "--timings")
    assert ran.status == 0
    assert ran.out == run("query", *query, "-0").out
    lines = ran.err.splitlines()
    assert lines[0].split() == ["wall", "CPU", "ms"]
    stages = ["start", "imports", "open index", "session load", "encode", "search", "fetch"]
    assert [line[:14].strip() for line in lines[1:]] == [*stages, "print", "total"]
    wall = [float(line[14:23]) for line in lines[2:]]
    assert sum(wall[:-1]) == pytest.approx(wall[-1], abs=1)
