"""Checksums of the files of a Lance table, which keeps none of its own.

A flipped bit in them may be a row too many or too few, or make Lance ask for more memory than there
is and end the process. Lance never changes a file that it has written, so a list of sizes and
CRC-32s, written after each commit, says of a file whether it is still what it was. What the list
does not name, because a writer was killed before it came to it, is not vouched for.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from prolip_search.errors import IndexDamaged
from prolip_search.indexes.durable import crc32_of, replace_file, writes

SEALS_NAME = "checksums.txt"
FOLDERS = ("data", "_deletions", "_transactions", "_versions")
VERSION_HINT = "_versions/latest_version_hint.json"  # the one file that Lance writes again


class Seals:
    """The list of the table at `table`: a line `<crc32> <bytes> <name> <crc32 of this line>` each.

    A line that is not whole is as good as none.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        self._path = table / SEALS_NAME

    def read(self) -> dict[str, tuple[int, int]]:
        """CRC-32 and size of every file that is vouched for, by name below the table."""
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return {}
        sealed = {}
        for line in lines:
            content, _, crc = line.rpartition(b" ")
            if crc == b"%08x" % zlib.crc32(content):
                file_crc, size, name = content.decode().split(" ", 2)
                sealed[name] = int(file_crc, 16), int(size)
        return sealed

    def update(self) -> None:
        """Lists the files that are new, and those that are gone no more. Needs the writer's lock.

        Costs what is new. Raises IndexNotWritable.
        """
        with writes("checksums", self._table.parent):
            sealed, there = self.read(), self._files()
            new = b"".join(
                _line(name, *_sum_of(self._table / name)) for name in sorted(there - sealed.keys())
            )
            if sealed.keys() - there:
                kept = [_line(name, *sums) for name, sums in sealed.items() if name in there]
                replace_file(self._path, b"".join(kept) + new)
            elif new:
                with self._path.open("ab") as file:
                    file.write(b"\n" + new)  # ends what a full disk may have cut short

    def check(self, names: Iterable[str]) -> None:
        """Compares files with what is listed of them. Raises IndexDamaged.

        One that is gone is left to the reader to miss: a writer may have dropped its version.
        """
        sealed = self.read()
        for name in names:
            if name not in sealed:
                continue
            path = self._table / name
            try:
                found = _sum_of(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._damaged(name, error.strerror or str(error)) from error
            if found != sealed[name]:
                raise self._damaged(name, "it is not what was written")

    def _files(self) -> set[str]:
        """Whole files of the table; those that are half written have a # in their names."""
        found = set()
        for folder in FOLDERS:
            if (self._table / folder).is_dir():
                with os.scandir(self._table / folder) as entries:
                    found |= {f"{folder}/{entry.name}" for entry in entries if entry.is_file()}
        return {name for name in found if "#" not in name} - {VERSION_HINT}

    def _damaged(self, name: str, what: str) -> IndexDamaged:
        return IndexDamaged(
            f"{self._table / name} is damaged: {what}. Restore it from a backup, or build the "
            "index anew with `prolip-search index --rebuild`.",
            path=self._table,
        )


def _sum_of(path: Path) -> tuple[int, int]:
    return crc32_of(path), path.stat().st_size


def _line(name: str, crc: int, size: int) -> bytes:
    content = b"%08x %d %s" % (crc, size, name.encode())
    return b"%s %08x\n" % (content, zlib.crc32(content))
