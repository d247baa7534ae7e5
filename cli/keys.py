"""Answers by one key, or by a line where the input is no terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

ReadKey = Callable[[], str]  # one character in lower case; "" at the end of the input

END_OF_INPUT = "\x04"  # what Ctrl-D gives where lines are not waited for


@contextlib.contextmanager
def keys() -> Iterator[ReadKey]:
    """While it lasts, a key is read as soon as it is pressed. Ctrl-C stays KeyboardInterrupt."""
    if not sys.stdin.isatty():
        yield lambda: _of_line(sys.stdin.readline())
        return
    import termios
    import tty

    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        yield lambda: _of_bytes(os.read(file, 64))
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _of_line(line: str) -> str:
    return (line.strip()[:1].lower() or "\n") if line else ""


def _of_bytes(pressed: bytes) -> str:
    """The last of some keys; of one that sends several bytes, such as an arrow, the escape."""
    if pressed.startswith(b"\x1b"):
        return "\x1b"
    key = pressed.decode("utf-8", "replace")[-1:].lower()
    return "" if key == END_OF_INPUT else key
