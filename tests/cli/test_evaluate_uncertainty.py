"""`evaluate uncertainty` on pictures of colours: what is written, and what mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from prolip_search.train.evaluation import estimates
from tests.cli.conftest import Run
from tests.train.calibration.judged_photos import write_photos


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "N_RESAMPLES", 30)


def test_a_report_holds_everything(run: Run, tmp_path: Path) -> None:
    photos = write_photos(tmp_path, n_photos=28)
    Path("chains.toml").write_text('chains = [["red", "a red wall"], ["blue", "a blue wall"]]')
    ran = run(
        "evaluate", "uncertainty", "--data", photos, "--chains", "chains.toml", "--out", "out",
        "--cache", "cache",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert {path.name for path in Path("out").iterdir()} == {
        "report.json", "report.md", "failure.png", "histograms.png", "lengths.png", "certain.png",
        "uncertain.png",
    }  # fmt: skip
    figures = json.loads(Path("out/report.json").read_text())
    assert (figures["images"], figures["captions"]) == (28, 56)
    # The colours' encoder is the less certain the fewer words a text has, and knows no grammar.
    whole = figures["uncertainty against length"]["captions and their parts"]
    assert whole["spearman of words and uncertainty"]["value"] < -0.9
    assert figures["chains"]["u"] == {
        "right": 2,
        "share": 1.0,
        "interval": [pytest.approx(0.342, abs=1e-3), 1.0],
    }
    for part in figures["whole captions against parts"].values():
        assert part["more uncertain"]["value"] > 0.9
    # What an image shows less of has fewer colours, and this encoder is more certain of those.
    parts = figures["whole images against parts"]
    assert len(parts) == 5  # none inside the tower: it has no patches
    assert parts["left half"]["more uncertain"]["value"] < 0.5
    for metric in figures["uncertainty against failure"].values():
        assert len(metric["bins"]["metric"]) == 10
    assert "picture" not in Path("out/report.json").read_text()
    assert "stands beside the" in Path("out/report.md").read_text()


def test_labelled_images_add_zero_shot_accuracy(run: Run, tmp_path: Path) -> None:
    photos = write_photos(tmp_path, n_photos=12)
    for colour in ("red", "green", "blue"):
        (tmp_path / "labelled" / colour).mkdir(parents=True)
        for shade in range(5):
            image = Image.new("RGB", (12 + shade, 12), colour)
            image.save(tmp_path / "labelled" / colour / f"{shade}.png")
    ran = run(
        "evaluate", "uncertainty", "--data", photos, "--reduced", "0", "--labelled", "labelled",
        "--json",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)["uncertainty against failure"]["zero-shot accuracy"]
    assert found["items"] == 15
    assert min(found["bins"]["metric"]) > 0.9  # this encoder knows these colours


def test_without_reductions_each_image_is_encoded_once(run: Run, tmp_path: Path) -> None:
    photos = write_photos(tmp_path, n_photos=12)
    ran = run("evaluate", "uncertainty", "--data", photos, "--reduced", "0", "--json")
    assert ran.status == 0, ran.err
    figures = json.loads(ran.out)
    assert figures["whole images against parts"] == {}
    assert figures["chains"] is None


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (None, "chains.toml cannot be read"),
        ("chains = [", "chains.toml cannot be read"),
        ("other = 1", "chains.toml has no chains; write chains = "),
        ('chains = ["a", "b"]', "chains.toml has no chains"),
        ('chains = [["a"], ["b"]]', "A chain needs two phrases"),
    ],
)
def test_wrong_chains_get_one_line(
    run: Run, tmp_path: Path, chains: str | None, message: str
) -> None:
    photos = write_photos(tmp_path, n_photos=12)
    if chains is not None:
        Path("chains.toml").write_text(chains)
    ran = run(
        "evaluate", "uncertainty", "--data", photos, "--reduced", "0", "--chains", "chains.toml"
    )
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_too_few_photos_get_one_line(run: Run, tmp_path: Path) -> None:
    photos = write_photos(tmp_path, n_photos=5)
    ran = run("evaluate", "uncertainty", "--data", photos)
    assert ran.status == 2
    assert "cannot fill 10 bins" in ran.err
