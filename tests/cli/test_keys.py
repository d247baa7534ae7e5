"""One key answers in a terminal: tried in a real one, of the kernel's."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from prolip_search.cli import keys as keys_module
from prolip_search.cli.keys import keys

CONVERSATION = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches it
from prolip_search import engine
from prolip_search.testing import FakeEncoder
engine.load_encoder = lambda name, **options: FakeEncoder()
from prolip_search.cli.__main__ import main
sys.exit(main(["calibrate", "--queries", "q.txt"]))
"""


def test_a_line_answers_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("Yes\n\n n\n"))
    with keys() as read_key:
        assert [read_key() for _ in range(4)] == ["y", "\n", "n", ""]


@pytest.mark.parametrize(
    ("pressed", "expected"),
    [(b"y", "y"), (b"Y", "y"), (b"\x04", ""), (b"", ""), (b"\x1b[A", "\x1b"), ("é".encode(), "é")],
)
def test_keys_of_every_kind(pressed: bytes, expected: str) -> None:
    assert keys_module._of_bytes(pressed) == expected


def test_one_key_answers_in_a_terminal_and_ctrl_c_keeps_what_was_said(
    indexed: Path, tmp_path: Path
) -> None:
    (tmp_path / "q.txt").write_text("red\nblue\n")
    terminal, of_the_program = pty.openpty()
    command = [sys.executable, "-c", CONVERSATION]
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=of_the_program,
        stdout=of_the_program,
        stderr=of_the_program,
        start_new_session=True,
    ) as process:
        os.close(of_the_program)
        shown = converse(terminal, [b"y", b"\x1b[A", b"n", b"n", b"n", b"\x03"])
    os.close(terminal)
    assert process.returncode == 0, shown
    assert "4 answers were kept." in shown
    assert shown.count("1 of 2") == shown.count("2 of 2") == 1


def converse(terminal: int, pressed: list[bytes]) -> str:
    """Presses a key at each question, no key of which ends a line; all that was shown."""
    shown = b""
    n_answered = 0
    while True:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, shown.decode(errors="replace")
        try:
            got = os.read(terminal, 4096)
        except OSError:  # the program has ended
            return shown.decode()
        if not got:
            return shown.decode()
        shown += got
        if pressed and shown.count(b"fits? y/n/s ") > n_answered:
            n_answered = shown.count(b"fits? y/n/s ")
            os.write(terminal, pressed.pop(0))
