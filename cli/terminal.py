"""The terminal that a command talks to: what it can show, and text made safe for it."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

# Right-to-left overrides can make one file name look like another.
BIDI_CONTROLS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """What a stream can show. width: columns, or None where lines may be of any length."""

    width: int | None = None
    colour: bool = False
    links: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> Terminal:
        """A pipe or file gets plain text; a terminal what NO_COLOR and TERM allow."""
        unicode = (stream.encoding or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}
        if not stream.isatty():
            return cls(unicode=unicode)
        clever = os.environ.get("TERM") != "dumb"
        return cls(
            width=shutil.get_terminal_size().columns,
            colour=clever and not os.environ.get("NO_COLOR"),
            links=clever,
            unicode=unicode,
        )

    def paint(self, text: str, style: int) -> str:
        """`text` in an ANSI style (2 dim, 36 cyan …), where there is colour."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and text else text

    def link(self, text: str, target: Path | None) -> str:
        """`text` that opens `target` when clicked, where terminals know how (OSC 8)."""
        if not self.links or target is None:
            return text
        return f"\x1b]8;;{target.as_uri()}\x1b\\{text}\x1b]8;;\x1b\\"


def visible(text: str) -> str:
    """`text` with everything escaped that would move a cursor, split a line or hide itself."""
    return "".join(_visible(c) if not c.isprintable() else c for c in text)


def _visible(character: str) -> str:
    if character in SHORT_ESCAPES:
        return SHORT_ESCAPES[character]
    if unicodedata.category(character) == "Cf" and character not in BIDI_CONTROLS:
        return character  # joiners inside emoji and Indic words
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def columns(text: str) -> int:
    """How many columns `text` fills: two for wide characters, none for combining ones."""
    return sum(_columns(character) for character in text)


def keep_end(text: str, width: int, *, ellipsis: str = "…") -> str:
    """`text`, or as much of its end as fits in `width` columns: the end of a path tells most."""
    if columns(text) <= width:
        return text
    room = width - columns(ellipsis)
    start = len(text)
    while start > 0 and _columns(text[start - 1]) <= room:
        start -= 1
        room -= _columns(text[start])
    return ellipsis + text[start:]


def note(message: str) -> None:
    """One line for the person, on stderr, whatever the message holds."""
    print(visible(message), file=sys.stderr)


def shown_path(path: Path) -> str:
    """The shorter of the absolute path and the one from here, not yet made safe to print."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the working directory is gone, or on another drive
        return str(path)
    return min(relative, str(path), key=len)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Cf", "Me", "Mn"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
