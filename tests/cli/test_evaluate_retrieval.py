"""evaluate retrieval and compare: from a file of captioned pictures to a report."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cli.conftest import Run

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple", "pink",
           "brown", "cyan", "magenta")  # fmt: skip


def write_parquet(file: Path, broken: Sequence[str] = ()) -> Path:
    """A picture of each colour with two captions; of some colours the bytes are no picture."""
    rows = []
    for colour in COLOURS:
        picture = io.BytesIO()
        Image.new("RGB", (16, 12), colour).save(picture, "PNG")
        captions = [f"a {colour} wall", f"all {colour} here"]
        content = b"no picture" if colour in broken else picture.getvalue()
        rows.append({"id": colour, "captions": captions, "image": content})
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def write_karpathy(folder: Path) -> Path:
    """The same as files in a folder, and an annotation file with COCO-like ids, in two splits."""
    (folder / "pictures").mkdir()
    images = []
    for row, colour in enumerate(COLOURS):
        Image.new("RGB", (16, 12), colour).save(folder / "pictures" / f"{colour}.png")
        sentences = [
            {"raw": f"a {colour} wall", "sentid": 10 * row},
            {"raw": f"all {colour} here", "sentid": 10 * row + 1},
        ]
        images.append(
            {
                "filename": f"{colour}.png",
                "cocoid": row,
                "split": "test" if row % 2 else "train",
                "sentences": sentences,
            }
        )
    file = folder / "karpathy.json"
    file.write_text(json.dumps({"images": images}))
    return file


def test_a_report_has_both_directions_all_scores_and_what_uncertainty_adds(
    run: Run, tmp_path: Path
) -> None:
    data = write_parquet(tmp_path / "data.parquet")
    ran = run("evaluate", "retrieval", "--data", data, "--folds", "3", "--cache", "cache")
    assert ran.status == 0, ran.err
    assert "text→image" in ran.out
    assert "Mean over 3 galleries of 4 images" in ran.out
    names = ["ranks.png", "recalls.png", "report.json", "report.md"]
    assert sorted(file.name for file in Path("retrieval-report").iterdir()) == names
    report = json.loads(Path("retrieval-report/report.json").read_text())
    assert report["data"] == {
        "name": "data.parquet", "images": 12, "captions": 24, "skipped": []
    }  # fmt: skip
    scores = report["matches"]["captions"]
    assert set(scores) == {"csd", "cosine", "text term", "image term"}
    assert scores["csd"]["t2i"] == scores["image term"]["t2i"]
    assert scores["csd"]["i2t"] == scores["text term"]["i2t"]
    found = scores["cosine"]["t2i"]["R@1"]
    assert found["value"] > 80 > 20 > found["chance"]  # the colours' encoder knows colours
    assert report["folds"]["csd"]["t2i"]["R@10"] == 100.0
    assert len(report["csd less cosine"]) == 10
    page = Path("retrieval-report/report.md").read_text()
    assert "changes no order" in page
    assert "| text→image | csd = image term |" in page


def test_json_is_the_report(run: Run, tmp_path: Path) -> None:
    ran = run("evaluate", "retrieval", "--data", write_parquet(tmp_path / "d.parquet"), "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out) == json.loads(Path("retrieval-report/report.json").read_text())


def test_karpathys_file_gives_one_split(run: Run, tmp_path: Path) -> None:
    ran = run(
        "evaluate", "retrieval", "--data", write_karpathy(tmp_path), "--split", "test",
        "--images", "pictures", "--json",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["data"]["images"] == 6


def test_unreadable_pictures_are_named_and_the_rest_is_measured(run: Run, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet", broken=COLOURS[:7])
    ran = run("evaluate", "retrieval", "--data", data)
    assert ran.status == 0
    assert "7 left out" in ran.err
    assert "red: unreadable image" in ran.err
    assert "and 2 more, listed in report.json" in ran.err
    report = json.loads(Path("retrieval-report/report.json").read_text())
    assert (report["data"]["images"], len(report["data"]["skipped"])) == (5, 7)


def test_two_encoders_are_compared_in_words(run: Run, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data.parquet")
    ran = run("evaluate", "compare", "--data", data, "--against", "other", "--out", "both")
    assert ran.status == 0, ran.err
    assert "text→image by csd:" in ran.out
    report = json.loads(Path("both/report.json").read_text())
    assert [report[which]["name"] for which in ("first", "second")] == ["mini", "other"]
    found = report["differences, second less first"]
    assert {one["where"] for one in found} == {
        f"{direction} by {score}"
        for direction in ("text→image", "image→text")
        for score in ("csd", "cosine")
    }
    for one in found:
        assert one["difference"] == pytest.approx(one["second"] - one["first"])
        assert one["low"] <= one["difference"] <= one["high"]
    assert set(report["uncertainty and first result"]) == {"mini", "other"}
    assert Path("both/recalls.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["retrieval", "--data", "nowhere.parquet"], "There is no nowhere.parquet"),
        (["retrieval", "--data", "data.parquet", "--eccv"], "lacks 5,000 of them"),
        (["retrieval", "--data", "data.parquet", "--folds", "13"], "12 images are too few for 13"),
        (["retrieval", "--data", "broken.parquet"], "None of 12 images can be read"),
        (["retrieval", "--data", "karpathy.json", "--images", "nowhere"], "no folder nowhere"),
        (["retrieval", "--data", "karpathy.json"], "None of the 12 images"),
        (["retrieval", "--data", "data.parquet", "--out", "data.parquet"], "cannot be written"),
        (["compare", "--data", "data.parquet", "--against", "mini"], "are the same encoder"),
    ],
)
def test_a_mistake_gets_one_line(
    run: Run, tmp_path: Path, options: list[str], message: str
) -> None:
    write_parquet(tmp_path / "data.parquet")
    write_parquet(tmp_path / "broken.parquet", broken=COLOURS)
    write_karpathy(tmp_path)
    ran = run("evaluate", *options)
    assert (ran.status, ran.out) == (2, "")
    errors = [line for line in ran.err.splitlines() if line.startswith("prolip-search:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in ran.err
