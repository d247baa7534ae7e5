"""Photos drawn inside a terminal, by the two protocols that most terminals with pictures speak."""

from __future__ import annotations

import base64
import io
import os
from enum import Enum
from pathlib import Path
from typing import TextIO

from prolip_search.errors import UnreadableImage

ROWS = 6  # terminal rows of a thumbnail
PIXELS = 192  # its longer side
KITTY_CHUNK = 4096


class Protocol(Enum):
    """How a terminal takes pictures."""

    KITTY = "kitty"
    ITERM = "iterm"

    @classmethod
    def of(cls, stream: TextIO) -> Protocol | None:
        """What this terminal says of itself in the environment; None where pictures are no use."""
        if not stream.isatty() or os.environ.get("TMUX") or os.environ.get("STY"):
            return None
        program = os.environ.get("TERM_PROGRAM", "")
        if os.environ.get("KITTY_WINDOW_ID") or program.lower() == "ghostty":
            return cls.KITTY
        if os.environ.get("TERM") in {"xterm-kitty", "xterm-ghostty"}:
            return cls.KITTY
        if program in {"iTerm.app", "WezTerm", "mintty", "rio"} or os.environ.get("LC_TERMINAL"):
            return cls.ITERM
        return None


def inline_image(file: Path, protocol: Protocol) -> str:
    """The escape sequence that shows a photo; words where the file cannot be read any more."""
    # Pillow is imported only when pictures are shown.
    from prolip_search.images import quiet_pillow, read_image

    try:
        with quiet_pillow():
            pixels = read_image(file, min_side=PIXELS).pixels
    except UnreadableImage as error:
        return f"[{error.reason.replace('_', ' ')}]"
    pixels.thumbnail((PIXELS, PIXELS))
    stream = io.BytesIO()
    pixels.save(stream, "PNG")
    return escape_sequence(stream.getvalue(), protocol)


def escape_sequence(png: bytes, protocol: Protocol) -> str:
    """A PNG as text for the terminal."""
    data = base64.standard_b64encode(png).decode()
    if protocol is Protocol.ITERM:
        options = f"inline=1;size={len(png)};height={ROWS};preserveAspectRatio=1"
        return f"\x1b]1337;File={options}:{data}\x07"
    chunks = [data[at : at + KITTY_CHUNK] for at in range(0, len(data), KITTY_CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        control = f"a=T,f=100,r={ROWS}," if number == 0 else ""
        more = int(number < len(chunks) - 1)
        parts.append(f"\x1b_G{control}m={more};{chunk}\x1b\\")
    return "".join(parts)
