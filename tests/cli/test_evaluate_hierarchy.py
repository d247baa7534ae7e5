"""`evaluate hierarchy`: tables, pictures and figures from nested captions; mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


def write_nested(folder: Path) -> Path:
    """Six pictures of one colour each, and captions of it from one word to a sentence."""
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 12), colour).save(folder / f"{colour}.png")
        captions = ["colour", f"{colour} colour", f"a {colour} wall of stone in the sun"]
        lines.append(json.dumps({"image": f"{colour}.png", "captions": captions}))
    (folder / "nested.jsonl").write_text("\n".join(lines))
    return folder / "nested.jsonl"


def test_a_report_has_every_root_with_intervals(run: Run, tmp_path: Path) -> None:
    ran = run("evaluate", "hierarchy", "--data", write_nested(tmp_path), "--out", "out")
    assert ran.status == 0, ran.err
    assert "Ways from the nearest caption to the root" in ran.out
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"report.json", "report.md", "traversals.png", "levels.png"}
    figures = json.loads(Path("out/report.json").read_text())
    ways = figures["traversals"]
    assert list(ways) == [
        "H", "H + “”", "M", "M + “”", "released", "released + “”", "“” alone", "nearest",
    ]  # fmt: skip
    for way in ways.values():
        for what in ("precision", "recall"):
            low, high = way[what]["interval"]
            assert 0 <= low <= way[what]["value"] <= high <= 1
    assert ways["nearest"]["precision"]["value"] == 1  # each picture's own colour
    assert ways["released"]["above the released test"]["recall"]["value"] == 0
    # The colours' encoder is the less certain the fewer words there are.
    for link in figures["special against general"].values():
        assert link["more uncertain"]["value"] == 1
    assert "wall of stone" not in Path("out/report.json").read_text()


def test_json_is_for_programs(run: Run, tmp_path: Path) -> None:
    ran = run("evaluate", "hierarchy", "--data", write_nested(tmp_path), "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["images"] == 6


def test_an_unreadable_image_is_skipped_and_named(run: Run, tmp_path: Path) -> None:
    nested = write_nested(tmp_path)
    (tmp_path / "red.png").write_bytes(b"no picture")
    ran = run("evaluate", "hierarchy", "--data", nested, "--out", "out")
    assert ran.status == 0, ran.err
    assert "red.png" in ran.err
    figures = json.loads(Path("out/report.json").read_text())
    assert figures["images"] == 5
    assert len(figures["skipped"]) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "red.png", "captions": ["red"]}', "has no chain of captions"),
        ('{"image": "none.png", "captions": ["red", "a red wall"]}', "None of the 1 images"),
        ("[]", "holds no JSON object"),
    ],
)
def test_a_mistake_gets_one_line(run: Run, tmp_path: Path, line: str, message: str) -> None:
    write_nested(tmp_path)
    (tmp_path / "wrong.jsonl").write_text(line)
    ran = run("evaluate", "hierarchy", "--data", "wrong.jsonl")
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.strip().splitlines()) <= 2
