"""Answers by one key, or by a line where the input is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

ReadKey = Callable[[], str]  # one letter in lower case; "" at the end of the input


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
        yield lambda: sys.stdin.read(1).lower()
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)


def _of_line(line: str) -> str:
    return (line.strip()[:1].lower() or "\n") if line else ""
