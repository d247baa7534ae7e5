"""What a report leaves behind, and what it does when something is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from prolip_search.errors import TrainingDataError
from prolip_search.train.evaluation.drawing import draw_bars, draw_histograms, draw_lines
from prolip_search.train.evaluation.report import Picture, Report, Table, to_text

PNG = b"\x89PNG"
TABLE = Table("Recall", ["score", "R@1", "n"], [["a|b", 12.345, 1200], ["c", None, 3]])


def a_report() -> Report:
    bars = Picture("bars", "Bars", lambda: draw_bars(["x"], {"a": [1.0]}, ylabel="share"))
    return Report("Title", ["Words."], [TABLE], {"n": np.int64(3), "nan": np.nan}, [bars])


def test_a_report_is_json_markdown_and_pictures(tmp_path: Path) -> None:
    files = a_report().write(tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["report.json", "report.md", "bars.png"]
    assert json.loads(files[0].read_text()) == {"n": 3, "nan": None}
    page = files[1].read_text()
    assert page.startswith("# Title\n\nWords.\n\n### Recall\n\n| score | R@1 | n |\n| --- | ---: |")
    assert r"| a\|b | 12.3 | 1,200 |" in page
    assert "| c | – | 3 |" in page
    assert "![Bars](bars.png)" in page
    assert files[2].read_bytes().startswith(PNG)


def test_a_table_is_aligned_on_a_terminal() -> None:
    assert TABLE.text().splitlines() == [
        "Recall",
        "  score   R@1      n",
        "  a|b    12.3  1,200",
        "  c         –      3",
    ]


def test_without_matplotlib_the_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    files = a_report().write(tmp_path)
    assert [file.name for file in files] == ["report.json", "report.md"]
    assert "pip install 'prolip-search[evaluate]'" in files[1].read_text()
    assert "](bars.png)" not in files[1].read_text()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingDataError, match="file cannot be written"):
        a_report().write(tmp_path / "file")


def test_json_takes_what_numpy_gives() -> None:
    data = {"a": np.arange(2), 3: (np.float32(0.5), float("inf")), "path": Path("x/y")}
    assert json.loads(to_text(data)) == {"a": [0, 1], "3": [0.5, None], "path": "x/y"}


def test_every_kind_of_picture_is_the_same_png_each_time() -> None:
    def all_kinds() -> list[bytes]:
        rng = np.random.default_rng(0)
        return [
            draw_bars(
                ["a", "b"],
                {"x": [1.0, 2.0], "y": [2.0, 1.0]},
                ylabel="y",
                intervals={"x": [(0.5, 1.5), (1.5, 2.5)]},
            ),
            draw_lines({"x": ([1, 2], [3, 4]), "y": ([1, 2], [4, 3])}, xlabel="x", ylabel="y"),
            draw_histograms({"x": rng.random(9), "y": rng.random(5)}, xlabel="x", ylabel="y"),
        ]

    first = all_kinds()
    assert all(picture.startswith(PNG) for picture in first)
    assert first == all_kinds()
    assert len(set(first)) == 3
