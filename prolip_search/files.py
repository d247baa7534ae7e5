"""The files in a photo folder: which there are, whether they changed, and their bytes.

Only regular files are ever opened. Whatever cannot be read is an UnreadableImage with a reason.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prolip_search.errors import UnreadableImage

if TYPE_CHECKING:
    from prolip_search.ignoring import Ignoring

# Files with these names are looked into when a folder is walked; a file named by hand always is.
CANDIDATE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".avif",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".jp2",
        ".j2k",
        ".jpx",
        ".ico",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
    ]
)
MAX_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A candidate on disk, and what tells cheaply that it changed."""

    path: Path
    size_bytes: int
    mtime_ns: int


def walk(
    roots: Iterable[Path],
    *,
    exclude: Collection[Path] = (),
    ignoring: Ignoring | None = None,
    on_skip: Callable[[UnreadableImage], None] = lambda skip: None,
) -> Iterator[FoundFile]:
    """Every candidate under `roots` (folders or files), in an order that only names decide.

    Hidden names, the folders in `exclude` and what `ignoring` says are left out; a root that is a
    file never is. Links to files are read, links to
    folders are not followed: name the target as a root instead. So there are no loops.
    What cannot be looked at, or is no regular file, goes to `on_skip`; an unreadable folder too.
    """
    for root in roots:
        if not root.is_dir():
            yield from _look_at(root, on_skip)
            continue
        if ignoring is not None:
            ignoring.enter_root(root)
        folders = [root]
        while folders:
            folder = folders.pop()
            if folder in exclude:
                continue
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
                if ignoring is not None:
                    ignoring.enter(folder, {entry.name for entry in entries})
            except OSError as error:
                on_skip(_why_not(folder, error))
                continue
            subfolders = []
            for entry in entries:
                path = folder / entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name.startswith(".") or (
                    not is_folder and path.suffix.lower() not in CANDIDATE_SUFFIXES
                ):
                    continue
                if ignoring is not None and ignoring.ignores(path, is_folder=is_folder):
                    continue
                if is_folder:
                    subfolders.append(path)
                else:
                    yield from _look_at(path, on_skip)
            folders += reversed(subfolders)


def stat_file(path: Path) -> FoundFile:
    """Size and time of a regular file, without opening it. Raises UnreadableImage."""
    try:
        found = path.stat()
    except OSError as error:
        raise _why_not(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage(path, "unsupported", "not a regular file")
    return FoundFile(path, found.st_size, found.st_mtime_ns)


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file of at most `max_bytes`. Raises UnreadableImage."""
    found = stat_file(path)  # before opening: opening a pipe would wait for its other end
    if found.size_bytes == 0:
        raise UnreadableImage(path, "empty")
    if found.size_bytes > max_bytes:
        size_mb, limit_mb = found.size_bytes >> 20, max_bytes >> 20
        raise UnreadableImage(path, "too_large", f"{size_mb} MiB, the limit is {limit_mb} MiB")
    try:
        # Not blocking, should the file have become a pipe since; it may also have grown since.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as stream:
            return stream.read(max_bytes)
    except OSError as error:
        raise _why_not(path, error) from error


def content_hash(data: bytes) -> str:
    """The name of these bytes: 128 bits of BLAKE2b in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _look_at(path: Path, on_skip: Callable[[UnreadableImage], None]) -> Iterator[FoundFile]:
    try:
        yield stat_file(path)
    except UnreadableImage as skip:
        on_skip(skip)


def _why_not(path: Path, error: OSError) -> UnreadableImage:
    if isinstance(error, PermissionError):
        return UnreadableImage(path, "permission")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableImage(path, "vanished")
    if error.errno == errno.ELOOP:
        return UnreadableImage(path, "unsupported", "a link that leads back to itself")
    return UnreadableImage(path, "damaged", f"the disk says: {error.strerror}")
