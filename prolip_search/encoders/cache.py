"""Where encoders keep what they derive once: fingerprints and exported graphs.

The user's cache folder, or the folder in the environment variable PROLIP_SEARCH_CACHE. Everything
in it may be deleted at any time; it is made again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

__all__ = ["cache_folder", "write_atomically"]


def cache_folder(kind: str) -> Path:
    """The folder for one kind of derived files; it need not exist yet."""
    override = os.environ.get("PROLIP_SEARCH_CACHE")
    root = Path(override) if override else platformdirs.user_cache_path("prolip-search", False)
    return root / kind


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees all of it or none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
