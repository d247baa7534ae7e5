"""Every command and every Python example of README and docs runs, in order, as printed.

Blocks marked `sh` are run by a shell and must succeed, blocks marked `python` by Python, each
document in one folder of its own that holds `photos/`, a few drawn pictures. Other marks
(`console`, `text`) are output to look at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUERY = re.compile(r"^((?:.*\| )?prolip-search (?:query|search) .*[^\\])$")
# Installing is what .ci/run has done before, and `pytest` is the run that this test is part of.
INSTALLS = re.compile(r"^pip install [^&]*(&& )?")


def blocks(document: Path) -> list[tuple[str, str]]:
    return [(mark, code) for mark, code in BLOCK.findall(document.read_text("utf-8"))]


def draw_photos(folder: Path) -> None:
    folder.mkdir()
    scenes = {"sea": "#2a6fb0", "meadow": "#4f9a3b", "sunset": "#e07b39", "snow": "#eef2f5"}
    for name, colour in scenes.items():
        picture = Image.new("RGB", (320, 240), colour)
        ImageDraw.Draw(picture).ellipse((200, 30, 260, 90), fill="#f6e27a")
        picture.save(folder / f"{name}.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_example_runs_as_printed(document: Path, tmp_path: Path) -> None:
    if shutil.which("prolip-search") is None:
        pytest.fail("prolip-search is not on PATH: install the package before testing it")
    draw_photos(tmp_path / "photos")
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "100"}
    n_run = 0
    for mark, code in blocks(document):
        if mark == "sh":
            # 1 says that nothing was found, and of drawn pictures that may well be true.
            lines = [
                QUERY.sub(r"{ \1; } || [ $? = 1 ]", INSTALLS.sub("", line))
                for line in code.splitlines()
            ]
            script = "\n".join(line for line in lines if line != "pytest")
            command = ["bash", "-euo", "pipefail", "-c", script]
        elif mark == "python":
            command = [sys.executable, "-c", code]
        else:
            continue
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{document.name}:\n{code}\n{run.stdout}\n{run.stderr}"
        n_run += 1
    assert n_run > 0 or not blocks(document), f"{document.name} has blocks but none was run"


def test_readme_installs_what_pyproject_offers() -> None:
    """The extras that README names exist, and the test command is the one that CI runs."""
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    pyproject = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    extras = {
        extra
        for group in re.findall(r"pip install [^\n]*\[([\w,]+)\]", readme)
        for extra in group.split(",")
    }
    assert extras
    for extra in extras:
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra
