from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from prolip_search.changes import SkippedFile
from prolip_search.cli.drawing import bar, result_line, skipped_lines
from prolip_search.cli.terminal import Terminal, columns, keep_end, visible
from prolip_search.cli.thumbnails import Protocol, escape_sequence, inline_image
from prolip_search.results import SearchResult


class Screen(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No word about the terminal that the tests happen to run in."""
    for name in ("NO_COLOR", "TMUX", "STY", "TERM_PROGRAM", "KITTY_WINDOW_ID", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "72")
    return monkeypatch


def result(file: str = "/photos/trip/dog.jpg", probability: float = 0.5) -> SearchResult:
    return SearchResult(
        rank=1,
        id="a1",
        kind="image",
        path="trip/dog.jpg",
        file=Path(file),
        text=None,
        csd=1.0,
        confidence=None,
        confidence_low=None,
        confidence_high=None,
        model_probability=probability,
        inclusion=0.0,
        relation=None,
        uncertainty=0.1,
        metadata=None,
    )


def test_a_bar_grows_with_the_score_in_eighths() -> None:
    assert bar(0) == " " * 10
    assert bar(1) == "█" * 10
    assert bar(0.5) == "█████     "
    assert bar(0.0125) == "▏         "
    assert bar(2) == bar(1)
    assert bar(0.26, unicode=False) == "###       "
    assert len({bar(n / 80) for n in range(81)}) == 81


def test_a_terminal_gets_colour_and_links_unless_asked_not_to(
    environment: pytest.MonkeyPatch,
) -> None:
    assert Terminal.of(Screen()) == Terminal(width=72, colour=True, links=True)
    environment.setenv("NO_COLOR", "1")
    assert Terminal.of(Screen()) == Terminal(width=72, colour=False, links=True)
    environment.setenv("TERM", "dumb")
    assert Terminal.of(Screen()) == Terminal(width=72, colour=False, links=False)
    assert Terminal.of(io.StringIO()).width is None
    assert not Terminal.of(Screen("latin-1")).unicode


def test_links_open_the_file_and_quote_what_is_odd() -> None:
    line = result_line(result("/photos/a b\x1b\n.jpg"), Terminal(links=True))
    assert "\x1b]8;;file:///photos/a%20b%1B%0A.jpg\x1b\\" in line
    assert line.count("\x1b]8;;") == 2
    assert "\n" not in line


@pytest.mark.parametrize("width", [12, 20, 39, 40, 60, 200])
def test_lines_fit_the_terminal(width: int) -> None:
    line = result_line(result("/a/very/long/way/down/to/散歩のとき/dog.jpg"), Terminal(width=width))
    assert columns(line) <= max(width, 19)
    assert line.endswith("dog.jpg")


def test_the_end_of_a_path_is_kept() -> None:
    assert keep_end("abcdef", 6) == "abcdef"
    assert keep_end("abcdef", 4) == "…def"
    assert keep_end("散歩散歩", 6) == "…散歩"


def test_nothing_uncalibrated_looks_certain() -> None:
    assert "0.999 " in result_line(result(probability=0.99999), Terminal())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 散歩 👩‍🚀", "plain é 散歩 👩‍🚀"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("gpj.\u202eevil", r"gpj.\u202eevil"),
        ("caf\udce9", r"caf\xe9"),
        ("\u2028", r"\u2028"),
    ],
)
def test_text_is_made_safe_for_the_terminal(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_skipped_files_are_named_with_their_reason() -> None:
    skipped = [SkippedFile(path="a\n.jpg", reason="not_an_image", detail="starts\nlike BMP")]
    assert list(skipped_lines(skipped)) == [r"skipped a\n.jpg: not an image (starts\nlike BMP)"]


# --- thumbnails


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"TERM": "xterm-kitty"}, Protocol.KITTY),
        ({"TERM_PROGRAM": "ghostty"}, Protocol.KITTY),
        ({"TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM),
        ({"TERM_PROGRAM": "WezTerm"}, Protocol.ITERM),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux"}, None),
    ],
)
def test_terminals_are_known_by_what_they_say(
    environment: pytest.MonkeyPatch, variables: dict[str, str], expected: Protocol | None
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert Protocol.of(Screen()) is expected
    assert Protocol.of(io.StringIO()) is None


def test_kitty_pictures_are_sent_in_chunks() -> None:
    data = bytes(range(256)) * 40
    sequence = escape_sequence(data, Protocol.KITTY)
    parts = sequence.removesuffix("\x1b\\").split("\x1b\\")
    controls = [part.partition(";")[0] for part in parts]
    assert controls[0] == "\x1b_Ga=T,f=100,r=6,m=1"
    assert controls[1:] == ["\x1b_Gm=1"] * (len(parts) - 2) + ["\x1b_Gm=0"]
    payload = "".join(part.partition(";")[2] for part in parts)
    assert base64.standard_b64decode(payload) == data


def test_iterm_pictures_are_one_sequence() -> None:
    sequence = escape_sequence(b"png", Protocol.ITERM)
    assert sequence.startswith("\x1b]1337;File=inline=1;size=3;")
    assert sequence.endswith(f":{base64.standard_b64encode(b'png').decode()}\x07")


def test_a_thumbnail_is_a_small_png_and_a_lost_photo_is_words(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.jpg")
    sequence = inline_image(tmp_path / "a.jpg", Protocol.ITERM)
    png = base64.standard_b64decode(sequence.partition(":")[2].removesuffix("\x07"))
    assert Image.open(io.BytesIO(png)).size == (192, 96)
    assert inline_image(tmp_path / "gone.jpg", Protocol.ITERM) == "[vanished]"
