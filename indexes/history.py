"""history.jsonl: what was asked, and what the answers were; kept beside the index and nowhere else.

Lines of text and not a Lance table: a query must not pay for importing Lance, must not wait for the
writer's lock, and works in a folder that cannot be written. Nothing depends on this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prolip_search.errors import IndexNotWritable
from prolip_search.indexes.durable import replace_file

HISTORY_NAME = "history.jsonl"
LARGEST_BYTES = 4 << 20  # then the older half goes
OWN = 0o600  # what somebody asked is nobody else's concern
TAIL_BYTES = 1 << 18  # that hold the last entry for certain


class History:
    """The history of the index at `folder`: JSON objects, one on each line, oldest first."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HISTORY_NAME

    def record(self, entry: Mapping[str, Any]) -> bool:
        """Adds an entry; False where the folder cannot be written, which is no error."""
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        try:
            with contextlib.closing(_Locked(self.path)) as file:
                file.append(line)
        except OSError:
            return False
        return True

    def read(self) -> list[dict[str, Any]]:
        """All entries; what is not one, such as a line cut short by a full disk, is left out."""
        try:
            return _entries(self.path.read_bytes())
        except OSError:
            return []

    def last(self) -> dict[str, Any] | None:
        """The newest entry."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
                found = _entries(file.read())
        except OSError:
            return None
        return found[-1] if found else None

    def forget(self) -> int:
        """Removes the history; how many entries it had. Raises IndexNotWritable."""
        n_entries = len(self.read())
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise IndexNotWritable(
                f"Cannot remove {self.path}: {error.strerror}. Make the folder writable.",
                path=self.path,
            ) from error
        return n_entries


class _Locked:
    """The file, open and locked against other writers of history for as long as this is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWN)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(self._file).st_ino:  # noqa: PTH116
                    return
            os.close(self._file)  # another writer has put a shorter file in its place

    def close(self) -> None:
        os.close(self._file)

    def append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        if size > 0 and os.pread(self._file, 1, size - 1) != b"\n":
            line = b"\n" + line  # the line before it was cut short
        if size + len(line) > LARGEST_BYTES:
            kept = os.pread(self._file, size, size // 2)
            replace_file(self._path, kept[kept.find(b"\n") + 1 :] + line)
            self._path.chmod(OWN)
        else:
            os.write(self._file, line)


def _entries(content: bytes) -> list[dict[str, Any]]:
    found = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.append(entry)
    return found
