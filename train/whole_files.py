"""Files of any size that are there whole or not at all, with the permissions of any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make the file beside its place and renames it; nothing is left where it fails."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
