"""The command line, run in this process with an encoder that knows colours."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import prolip_search
from prolip_search import engine
from prolip_search.cli.__main__ import main
from prolip_search.testing import FakeEncoder

COLOURS = ("red", "green", "blue", "yellow", "white", "black")


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """prolip-search in an empty folder; whatever encoder is named, the colours' one is loaded."""

    def load(name: str = "mini", **options: object) -> FakeEncoder:
        return FakeEncoder(salt="" if name in ("mini", "fake") else name)

    monkeypatch.setattr(engine, "load_encoder", load)
    monkeypatch.setattr(prolip_search, "load_encoder", load)
    monkeypatch.chdir(tmp_path)
    for name in ("PROLIP_SEARCH_INDEX", "NO_COLOR", "TERM", "TMUX", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of one colour each, in a format whose bytes no library version changes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (32, 24), colour).save(folder / f"{colour}.ppm")
    return folder


@pytest.fixture
def indexed(run: Run, photos: Path) -> Path:
    """The six pictures, indexed from the folder above them."""
    assert run("index", photos).status == 0
    return photos
