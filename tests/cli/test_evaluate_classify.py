"""`evaluate classify`: from class folders to a report, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import COLOURS, Run


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Three pictures of every colour but white, in a folder of its name; others in `support`."""
    for folder in ("images", "support"):
        for name in COLOURS:
            if name != "white":
                (tmp_path / folder / name).mkdir(parents=True)
                for n in range(3):
                    file = tmp_path / folder / name / f"{n}.png"
                    Image.new("RGB", (9 + n, len(folder)), name).save(file)
    (tmp_path / "templates.txt").write_text("a photo of something {}\n{}\nmy {} thing\n")
    return tmp_path / "images"


def test_colours_are_told_apart_and_a_broken_picture_is_listed(run: Run, colours: Path) -> None:
    (colours / "red" / "broken.jpg").write_bytes(b"no picture")
    ran = run(
        "evaluate", "classify", "--data", colours, "--support", "support",
        "--templates", "templates.txt", "--seeds", "2", "--out", "report", "--cache", "cache",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert "all prompts, with uncertainty" in ran.out
    assert "broken.jpg" in ran.err
    report = json.loads(Path("report/report.json").read_text())
    assert (report["images"], report["classes"], report["templates"]) == (15, 5, 3)
    assert report["skipped"][0]["key"] == "red/broken.jpg"
    assert report["methods"][0]["top1"] == 1.0
    assert "1 images could not be read" in Path("report/report.md").read_text()


def test_programs_get_the_same_figures_as_json(run: Run, colours: Path) -> None:
    ran = run(
        "evaluate", "classify", "--data", colours, "--templates", "templates.txt", "--seeds", "2",
        "--json",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    printed = json.loads(ran.out)
    assert printed == json.loads(Path("classification-report/report.json").read_text())
    assert {row["filter"] for row in printed["filters"]} >= {"least uncertain"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "There is no nowhere"),
        (["--data", "images", "--templates", "bad.txt"], "there is nothing to put for {x}"),
        (["--data", "images", "--support", "images"], "must hold other images"),
        (["--data", "images", "--nearest", "5-1"], "not '5-1'"),
        (["--data", "images", "--classes", "bad.txt"], "names 1 classes, but the data has 5"),
    ],
)
def test_a_mistake_gets_one_line(run: Run, colours: Path, options: list[str], message: str) -> None:
    Path("bad.txt").write_text("a {x}\n")
    ran = run("evaluate", "classify", *options)
    assert ran.status == 2
    assert message in ran.err
    assert "Traceback" not in ran.err
