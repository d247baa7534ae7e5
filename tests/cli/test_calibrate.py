"""prolip-search calibrate and judge: the whole way from a key to a percent sign."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prolip_search.cli import calibrate as calibrate_module
from prolip_search.engine import SearchEngine
from prolip_search.testing import FakeEncoder
from tests.cli.conftest import Run
from tests.cli.test_main import HEAVY, modules_after
from tests.golden_files import assert_golden
from tests.judged import NAMES, pixels_of

QUERIES = [f"{word} {colour}" for word in ("a", "the", "some") for colour in NAMES]


@pytest.fixture
def coloured(run: Run, tmp_path: Path) -> Path:
    """Five noisy photos of each of thirteen colours, indexed."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for at, colour in enumerate(NAMES * 5):
        Image.fromarray(pixels_of(colour, at)).save(folder / f"{colour}-{at}.ppm")
    assert run("index", folder).status == 0
    return folder


def opened(tmp_path: Path) -> SearchEngine:
    return SearchEngine.open(tmp_path / ".prolip-search", encoder=FakeEncoder())


def judgements(tmp_path: Path, path: Path, *, absolute: bool = True) -> Path:
    """What an honest person would write of three results of each query."""
    engine, lines = opened(tmp_path), []
    for query in QUERIES:
        answer = engine.search(query, 40)
        for rank in (0, 2, 30):
            photo = str(answer[rank].file if absolute else answer[rank].path)
            match = Path(photo).name.startswith(query.split()[-1])
            lines.append(json.dumps({"query": query, "image": photo, "match": match}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def calibrated(run: Run, coloured: Path, tmp_path: Path) -> Path:
    ran = run("calibrate", "--judgements", judgements(tmp_path, tmp_path / "j.jsonl"))
    assert (ran.status, ran.err) == (0, "")
    return coloured


def test_judgements_of_a_file_put_percent_signs_into_the_table(run: Run, calibrated: Path) -> None:
    ran = run("query", "something", "red", "-k", "12")
    assert ran.status == 0
    assert_golden("query-calibrated.txt", ran.out)
    assert "calibrated on 117 judgements (error 0.0" in ran.err
    answer = json.loads(run("query", "something red", "--json").out)
    assert answer["calibration"]["status"] == "own"
    assert answer["results"][0]["confidence"] > 0.5
    assert answer["top_probability"] == answer["results"][0]["confidence"]


def test_a_calibrated_query_imports_nothing_for_fitting(run: Run, calibrated: Path) -> None:
    script = """
from prolip_search import engine
from prolip_search.testing import FakeEncoder
engine.load_encoder = lambda name, **options: FakeEncoder()
from prolip_search.cli.__main__ import main
assert main(["query", "red"]) == 0
"""
    loaded = modules_after(script, calibrated.parent)
    assert loaded & {*HEAVY, "lance", "scipy", "sklearn"} == set()


def test_another_encoder_keeps_what_was_judged(run: Run, calibrated: Path, tmp_path: Path) -> None:
    run("query", "--image", calibrated / "red-10.ppm")
    assert run("judge", "LAST", "2", "yes").status == 0
    assert run("index", "--rebuild", "--encoder", "other").status == 0
    engine = SearchEngine.open(tmp_path / ".prolip-search", encoder=FakeEncoder(salt="other"))
    rows = engine.store.judgements().to_pylist()
    assert len(rows) == 118
    assert {row["encoder"] for row in rows} == {engine.encoder.fingerprint}
    assert engine.search("red", 1).calibration.n_judged == 117


def test_a_report_says_what_is_known_and_what_is_missing(run: Run, calibrated: Path) -> None:
    out = run("calibrate", "--report").out
    assert "asked with words\n  confidence   calibrated on 117 judgements of 39 queries" in out
    assert "it takes 22 pairs" in out
    report = json.loads(run("calibrate", "--report", "--json").out)
    assert report["kinds"]["text"]["status"] == "own"
    assert report["kinds"]["image"]["status"] == "none"
    assert "asked with words: calibrated on 117" in run("status").out
    assert (
        json.loads(run("status", "--json").out)["calibration"]["kinds"]["text"]["n_judged"] == 117
    )


def test_paths_of_the_index_and_ids_are_understood_as_well(
    run: Run, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = judgements(tmp_path, tmp_path / "j.jsonl", absolute=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    index = tmp_path / ".prolip-search"
    assert run("calibrate", "--judgements", file, "--index", index).status == 0
    assert opened(tmp_path).store.count_judgements() == 117
    item = opened(tmp_path).search("red", 1)[0].id
    (tmp_path / "ids.jsonl").write_text(json.dumps({"query": "red", "image": item, "match": True}))
    assert run("calibrate", "--judgements", tmp_path / "ids.jsonl", "--index", index).status == 0
    assert opened(tmp_path).store.count_judgements() == 118


def test_pairs_draw_the_line_and_say_so(run: Run, coloured: Path, tmp_path: Path) -> None:
    rows = ["Image,Caption,stars"]
    for photo in sorted(coloured.iterdir())[::2]:
        colour, number = photo.stem.split("-")
        rows.append(f'{photo},"one {colour} thing, number {number}",5')
    (tmp_path / "p.csv").write_text("\n".join(rows))
    ran = run("calibrate", "--pairs", tmp_path / "p.csv")
    assert ran.status == 0
    assert "say nothing of other images" in ran.err
    assert "the line     is drawn, from 33 pairs" in ran.out
    ran = run("query", "something", "red", "-k", "8")
    assert_golden("query-pairs.txt", ran.out)
    assert "%" not in ran.out + ran.err
    short = run("query", "something", "red", "-k", "1")
    assert "the image you describe is among the first" in short.err
    answer = json.loads(run("query", "something red", "--json", "--coverage", "0.5").out)
    assert (answer["calibration"]["status"], answer["coverage"]) == ("none", 0.5)


def test_captions_beside_photos_and_inside_them_are_pairs(
    run: Run, coloured: Path, tmp_path: Path
) -> None:
    photos = sorted(coloured.iterdir())
    for photo in photos[:20]:
        photo.with_suffix(".txt").write_text(f"a {photo.stem.split('-')[0]} thing\nby somebody")
    photos[20].with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:description><rdf:Alt>'
        b'<rdf:li xml:lang="x-default">red &amp; bright\n thing</rdf:li></rdf:Alt>'
        b"</dc:description></x:xmpmeta>"
    )
    Image.new("RGB", (32, 32), "red").save(coloured / "xmp.jpg", xmp=xmp)
    run("index", coloured)
    ran = run("calibrate", "--beside")
    assert ran.status == 0
    assert "21 new pairs" in ran.err
    again = run("calibrate", "--beside")
    assert (again.status, again.out) == (0, ran.out)
    assert again.err.startswith("0 new pairs")
    rows = opened(tmp_path).store.judgements().to_pylist()
    assert {row["label"] for row in rows} == {"target"}
    assert "red & bright thing" in {row["query_text"] for row in rows}


# --- the conversation


def answers(*keys: str) -> bytes:
    return "".join(f"{key}\n" for key in keys).encode()


def test_the_conversation_asks_keeps_and_fits(run: Run, coloured: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("\ufeffred\nred\n\n  a blue one \nno such thing\n", "utf-8")
    keys = ["y", "n", "s", "n", *"ynyn", *"nnnn", "y"]
    ran = run("calibrate", "--queries", tmp_path / "q.txt", stdin=answers(*keys))
    assert ran.status == 0
    assert "1 of 3  red" in ran.out
    assert ran.out.count("fits? y/n/s") == 12
    assert ran.out.count("Is there nothing of the kind") == 1
    assert ran.err == "12 answers were kept.\n"
    rows = opened(tmp_path).store.judgements().to_pylist()
    labels = [row["label"] for row in rows]
    assert labels.count("match") == 3
    assert labels.count("no_match") == 8
    assert (labels[-1], rows[-1]["item_id"]) == ("none", None)
    for row in rows[:-1]:
        assert row["source"] == "judge"
        assert row["judged_probability"] == pytest.approx(0.28 if row["rank"] <= 10 else 1.2 / 55)
    assert "not calibrated; 11 judgements" in ran.out


def test_it_may_end_at_any_time_and_what_was_said_is_kept(
    run: Run, coloured: Path, tmp_path: Path
) -> None:
    ran = run("calibrate", stdin=answers("y", "n", "q"))
    assert (ran.status, ran.err) == (0, "2 answers were kept.\n")
    ran = run("calibrate", stdin=answers("y"))  # the input ends
    assert (ran.status, ran.err) == (0, "1 answer was kept.\n")
    assert opened(tmp_path).store.count_judgements() == 3


def test_the_last_answer_can_be_taken_back(run: Run, coloured: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("red\n")
    ran = run("calibrate", "--queries", tmp_path / "q.txt", stdin=answers(*"uyunxyyyy"))
    assert ran.err.startswith("y yes, it fits")  # x is no answer
    labels = opened(tmp_path).store.judgements()["label"].to_pylist()
    assert labels == ["no_match", "match", "match", "match"]


def test_ctrl_c_keeps_what_was_said(
    run: Run, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prolip_search.cli import keys

    given = iter("yn")

    def key(line: str) -> str:
        try:
            return next(given)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(keys, "_of_line", key)
    ran = run("calibrate", stdin=answers("y"))
    assert (ran.status, ran.err) == (0, "2 answers were kept.\n")
    assert opened(tmp_path).store.count_judgements() == 2


def test_what_was_asked_before_is_asked_about_first_and_a_quarter_is_unlikely(
    run: Run, coloured: Path
) -> None:
    for query in ("red", "blue", "green"):
        run("query", query)
    ran = run("calibrate", "--number", "4", stdin=answers(*"ssssssssssssssss"))
    asked = [line.split("  ")[1] for line in ran.out.splitlines() if " of 4  " in line]
    assert len(asked) == 4
    assert {"red", "blue", "green"} < set(asked)


def test_forgetting(run: Run, calibrated: Path) -> None:
    ran = run("calibrate", "--reset")
    assert (ran.status, ran.out) == (0, "")
    assert ran.err.startswith("117 judgements were forgotten")
    assert "uncalibrated" in run("query", "red").err


# --- mistakes


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("j.jsonl", '{"query": "red"', "j.jsonl, line 1 is not JSON"),
        ("j.jsonl", "\n[1]\n", "j.jsonl, line 2 is no JSON object"),
        ("j.jsonl", '{"query": "red", "match": true}', "has no text 'image'"),
        ("j.jsonl", '{"query": "", "image": "x", "match": true}', "has no text 'query'"),
        ("j.jsonl", '{"query": "red", "image": "x", "match": 1}', "true or false"),
        (
            "j.jsonl",
            '{"query": "red", "image": "x.jpg", "match": true}',
            "1 of 1 photos are not in the index, such as x.jpg (",
        ),
        ("p.csv", "photos/red-10.ppm,a red thing\n", "must name the columns, such as `image,capt"),
        ("p.csv", "", "has no column 'image' and no column 'caption'"),
        ("p.csv", "image,caption\nphotos/red-10.ppm\n", "line 2 lacks an image or a caption"),
        ("p.csv", 'image,caption\nx,"never closed', "is not CSV"),
        ("p.csv", "image,caption\nnothing.jpg,a dog\n", "photos are not in the index"),
        ("p.csv", b"\xff\xfe", "is not UTF-8 text"),
        ("p.csv", None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_and_nothing_is_lost(
    run: Run,
    calibrated: Path,
    tmp_path: Path,
    name: str,
    content: str | bytes | None,
    expected: str,
) -> None:
    before = opened(tmp_path).store
    path = tmp_path / f"bad-{name}"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    option = "--pairs" if name == "p.csv" else "--judgements"
    ran = run("calibrate", option, path)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert expected in ran.err
    after = opened(tmp_path).store
    assert after.count_judgements() == before.count_judgements() == 117
    assert after.manifest == before.manifest


def test_photos_that_are_missing_are_told_of_and_the_others_count(
    run: Run, coloured: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text(
        "image,caption\nphotos/red-10.ppm,a red thing\nphotos/gone.jpg,a dog\n"
    )
    ran = run("calibrate", "--pairs", tmp_path / "p.csv")
    assert ran.status == 0
    assert "1 of 2 photos are not in the index, such as photos/gone.jpg (" in ran.err
    assert "line 3): they were left out, all others were recorded." in ran.err
    assert opened(tmp_path).store.judgements()["query_text"].to_pylist() == ["a red thing"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["calibrate", "--report", "--reset"], "--report and --reset exclude each other"),
        (["calibrate", "--queries", "nothing.txt"], "nothing.txt cannot be read"),
        (["query", "red", "--min-confidence", "0.5"], "Texts have no confidences here"),
        (["query", "red", "--min-confidence", "7"], "A confidence lies in 0 to 1, not 7.0."),
        (["query", "red", "--coverage", "1"], "A coverage lies between 0 and 1"),
        (["judge", "LAST", "3", "no"], "There is no last answer"),
        (["judge", "LAST", "3", "maybe"], "prolip-search judge LAST 3 no"),
        (["judge", "LAST", "yes"], "prolip-search judge LAST none"),
        (["judge", "red", "3", "yes"], "A rank needs LAST as the query."),
        (["judge", "red", "nothing.jpg", "yes"], "The index has no photo nothing.jpg"),
    ],
)
def test_every_mistake_is_one_line(
    run: Run, coloured: Path, arguments: list[str], expected: str
) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert expected in ran.err


def test_without_photos_there_is_nothing_to_ask(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    run("index", tmp_path / "photos")
    ran = run("calibrate", stdin=b"y\n")
    assert (ran.status, ran.out) == (2, "")
    assert "holds no photos to ask about" in ran.err


# --- thumbs


def test_results_of_the_last_answer_are_judged_by_rank(
    run: Run, coloured: Path, tmp_path: Path
) -> None:
    first = json.loads(run("query", "red", "-k", "4", "--offset", "2", "--json").out)["results"]
    ran = run("judge", "LAST", "4", "6", "no")
    assert ran.status == 0
    assert ran.err.startswith("Kept. 2 judgements so far")
    rows = opened(tmp_path).store.judgements().to_pylist()
    assert [(row["item_id"], row["rank"]) for row in rows] == [
        (first[1]["id"], 4),
        (first[3]["id"], 6),
    ]
    assert {(r["query_text"], r["label"], r["source"]) for r in rows} == {
        ("red", "no_match", "thumbs")
    }
    out_of_range = run("judge", "LAST", "1", "no")
    assert "had results 3 to 6; there is no 1" in out_of_range.err


def test_a_query_and_a_photo_are_judged_by_name(run: Run, coloured: Path, tmp_path: Path) -> None:
    assert run("judge", "a red thing", "photos/red-10.ppm", "yes").status == 0
    assert run("judge", "a red thing", "none").status == 0
    rows = opened(tmp_path).store.judgements().to_pylist()
    assert [(row["label"], row["rank"]) for row in rows] == [("match", None), ("none", None)]


def test_pictures_are_judged_after_they_were_asked(
    run: Run, coloured: Path, tmp_path: Path
) -> None:
    Image.fromarray(pixels_of("red", 77)).save(tmp_path / "query.png")
    run("query", "--image", "query.png", "-k", "2")
    assert run("judge", "LAST", "1", "yes").status == 0
    run("similar", coloured / "red-10.ppm", "-k", "2")
    assert run("judge", "LAST", "1", "yes").status == 0
    rows = opened(tmp_path).store.judgements().to_pylist()
    assert [row["query_kind"] for row in rows] == ["image", "image"]
    assert rows[0]["query_image"].startswith(b"\xff\xd8")
    assert rows[1]["query_image"] is None  # an item of the index is a picture that is there


def test_history_can_be_left_out(
    run: Run, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = tmp_path / ".prolip-search/history.jsonl"
    run("query", "red", "--no-history")
    assert not history.exists()
    monkeypatch.setenv("PROLIP_SEARCH_NO_HISTORY", "1")
    run("query", "red")
    assert not history.exists()
    monkeypatch.delenv("PROLIP_SEARCH_NO_HISTORY")
    assert "to forget them" not in run("status").out
    run("query", "red")
    run("query", "-", "--jsonl", stdin=b"blue\ngreen\n")
    assert "3 queries; delete .prolip-search/history.jsonl to forget them" in run("status").out
    assert json.loads(run("status", "--json").out)["history"] == {"n_queries": 3}


# --- nothing here


def test_status_1_when_nothing_probably_matches(
    run: Run, coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prolip_search import answering

    run("calibrate", "--judgements", judgements(tmp_path, tmp_path / "j.jsonl"))
    score = answering.score
    chance = 0.0

    def scored(*arguments, **options):  # type: ignore[no-untyped-def]  # as it is
        from dataclasses import replace

        about = score(*arguments, **options)
        return replace(about, none_probability=np.array([chance]))

    monkeypatch.setattr(answering, "score", scored)
    told = {}
    for chance in (0.1, 0.55, 0.85):
        ran = run("query", "red", "-k", "2")
        told[chance] = (ran.status, ran.err.splitlines())
        assert run("query", "red", "--jsonl").status == ran.status
    assert told[0.1][0] == 0
    assert told[0.1][1][0].startswith("10 % chance that nothing matches · calibrated on 117")
    assert (told[0.55][0], told[0.55][1][0]) == (0, "Perhaps nothing here matches.")
    assert told[0.85][0] == 1
    assert told[0.85][1][0] == "Probably nothing here matches (closest shown)."
    assert told[0.85][1][1].startswith("80 % chance that nothing matches")
    ran = run("query", "-", "--jsonl", stdin=b"red\nblue\n")
    assert (ran.status, len(ran.out.splitlines())) == (1, 2)


def test_the_conversation_imports_nothing_for_help(run: Run) -> None:
    assert not hasattr(calibrate_module, "Interview")
