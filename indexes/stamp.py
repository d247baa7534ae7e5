"""Which version of a Lance table is the newest, found without importing Lance.

A plain query needs to know only whether the derived files still describe the table. The names in
`_versions/` say which version is the newest, and a checksum of that version's manifest says that it
is the very commit, not one of the same number from a restored backup.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# Lance names the manifest of version n after 2^64 − 1 − n, so that the newest lists first.
_VERSION_FILE = re.compile(r"[0-9]{20}\.manifest")
_HIGHEST = (1 << 64) - 1


@dataclass(frozen=True)
class TableStamp:
    """One commit of a table: its version and the BLAKE2b-128 (hex) of its manifest file."""

    version: int
    manifest_hash: str


def latest_stamp(table: Path) -> TableStamp | None:
    """The newest commit of the Lance table at `table`; None where that cannot be told."""
    try:
        names = [entry.name for entry in (table / "_versions").iterdir()]
    except OSError:
        return None
    newest = min((name for name in names if _VERSION_FILE.fullmatch(name)), default=None)
    return None if newest is None else stamp_of_version(table, _HIGHEST - int(newest[:20]))


def version_file(version: int) -> str:
    """The name of a version's manifest in `_versions/`."""
    return f"{_HIGHEST - version:020}.manifest"


def stamp_of_version(table: Path, version: int) -> TableStamp | None:
    """The commit of that number; None when it is not, or no longer, there."""
    path = table / "_versions" / version_file(version)
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return None
    return TableStamp(version, digest)
