"""The evaluate command: from judgements to a calibration and a report that stands alone."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from prolip_search.train.calibration import reliability, searches
from tests.cli.conftest import Run
from tests.train.calibration.judged_photos import write_lines, write_photos, write_votes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability, "N_RESAMPLES", 30)
    monkeypatch.setattr(reliability, "N_SPLITS", 5)
    monkeypatch.setattr(searches, "MOST_ANSWERS", 0.1)  # two colours are on one photo in 28


def test_a_report_stands_alone_and_says_who_won(run: Run, tmp_path: Path) -> None:
    photos, votes = write_photos(tmp_path), write_votes(tmp_path)
    ran = run(
        "evaluate", "calibration", "--judgements", votes, "--data", photos, "--pairs", photos,
        "--out", "report", "--cache", "cache",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert re.search(r"Confidence (beats|loses to|cannot be told from) top-1 cosine", ran.out)
    assert "cutoff of 50 pairs: holds" in ran.out
    names = {path.suffix: path for path in Path("report").iterdir()}
    assert set(names) == {".html", ".json", ".png"}
    assert len(list(Path("report").glob("*.json"))) == 2  # the figures, and the calibration
    page = Path("report/report.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|srcset|href)=['\"](?!data:)", page)
    assert "loses to" in page or "beats" in page or "cannot be told from" in page
    report = json.loads(Path("report/report.json").read_text())
    pairs = report["judged pairs"]
    assert pairs["scores"]["confidence"]["smECE"]["value"] < 0.1
    assert pairs["scores"]["confidence"]["Brier"] == pytest.approx(
        sum(
            sign * pairs["scores"]["confidence"][f"Brier, {part}"]
            for part, sign in (("reliability", 1), ("resolution", -1), ("uncertainty", 1))
        )
    )
    for row in pairs["by rank"]:
        assert row["at least"] <= row["at most"]
    assert set(report["first targets"]["scores"]) == {
        "confidence", "raw sigmoid", "top-1 cosine", "top-1 consistency", "adversarial margin",
    }  # fmt: skip
    for row in report["coverage"]:
        low, high = row["interval"]
        assert low <= row["coverage"] <= high
    assert report["none"]["auroc"] > 0.6


def test_lines_without_captions_give_a_report_too(run: Run, tmp_path: Path) -> None:
    photos, lines = write_photos(tmp_path), write_lines(tmp_path, 120)
    ran = run("evaluate", "calibration", "--judgements", lines, "--data", photos, "--out", "report")
    assert ran.status == 0, ran.err
    report = json.loads(Path("report/report.json").read_text())
    assert report["none"] is None
    assert report["judged pairs"]["scores"]["confidence"]["auroc"]["value"] > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judgements", "nowhere.csv", "--data", "photos.parquet"], "nowhere.csv cannot be read"),
        (["--judgements", "votes.csv", "--data", "nowhere"], "There is no nowhere"),
        (["--judgements", "few.jsonl", "--data", "photos.parquet"], "needs 50 judgements"),
        (["--judgements", "bare.csv", "--data", "photos.parquet"], "has no column image_id"),
    ],
)
def test_a_mistake_gets_one_line(
    run: Run, tmp_path: Path, options: list[str], message: str
) -> None:
    write_photos(tmp_path)
    write_votes(tmp_path, 100)
    (tmp_path / "bare.csv").write_text("photos/1,photos/1,0,3,0\n")
    lines = [
        f'{{"query": "{i}", "image": "photos/{j}", "match": true}}'
        for i in range(9)
        for j in range(9)
    ]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    ran = run("evaluate", "calibration", *options)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_without_matplotlib_it_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, lines = write_photos(tmp_path), write_lines(tmp_path, 120)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = run("evaluate", "calibration", "--judgements", lines, "--data", photos)
    assert ran.status == 2
    assert "pip install 'prolip-search[evaluate]'" in ran.err
