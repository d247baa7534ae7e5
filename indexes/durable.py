"""The one place that puts a whole small file on disk: all of it or none of it.

A file is written under a temporary name, forced to the disk, and renamed over the old one, so a
reader sees the old bytes or the new ones and a crash leaves no third state.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from prolip_search.errors import IndexNotWritable, StoreError

TEMPORARY_SUFFIX = ".writing"
_SOURCE_POSITION = re.compile(r",? (/[^ ]*)?\b[\w/.-]+\.rs:\d+:\d+")


@contextlib.contextmanager
def writes(what: str, folder: Path) -> Iterator[None]:
    """Turns a refused write of any kind (read-only, disk full) into one IndexNotWritable.

    Lance may raise RuntimeError as well as OSError when the system refuses to write.
    """
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError) as error:
        raise IndexNotWritable(
            f"Could not write {what} in {folder}: {reason_of(error)}. The index still holds what "
            "it held before. Make room or make the folder writable, and run the command again.",
            path=folder,
        ) from error


def reason_of(error: BaseException) -> str:
    """What an error of Lance or the system says, in one line without source positions."""
    text = next(iter(str(error).strip().splitlines()), "") or repr(error)
    return _SOURCE_POSITION.sub("", text).removeprefix("LanceError(IO): ").rstrip(".")


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` at `path` by temporary file, fsync and rename. Raises OSError."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def crc32_of(path: Path) -> int:
    """CRC-32 of a file's bytes (about 4 GB/s): guards against accidents, not against forgers."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return 0
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return zlib.crc32(content)


def own_checksum(content: Mapping[str, Any]) -> int:
    """CRC-32 of a JSON object without its field `checksum`: keys sorted, no spaces, ASCII."""
    vouched = {name: value for name, value in content.items() if name != "checksum"}
    return zlib.crc32(json.dumps(vouched, sort_keys=True, separators=(",", ":")).encode())
