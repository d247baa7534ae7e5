"""Samples of one webdataset shard: a tar file whose members `key.jpg`, `key.txt`, `key.json` follow
each other.

Read front to back, never unpacked to disk and never unpickled. What is damaged is lost, what came
before it is not.

The `webdataset` package is not used: a position in its pipelines cannot be saved and gone back to,
its archive reader takes a damaged header for the end of a shard, and of the rest only the naming
convention is needed, which are the forty lines below.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import fsspec

from prolip_search.files import MAX_BYTES
from prolip_search.train.datasets.annotations import CAPTION_NAMES, guess, texts_of
from prolip_search.train.datasets.shard_names import is_remote, missing_package
from prolip_search.train.datasets.skips import Skipped

__all__ = ["ShardLoss", "ShardSample", "read_shard"]

MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key and extension, from the first dot
IMAGE_EXTENSIONS = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "img"}
TEXT_EXTENSIONS = {"txt", "text", "caption"}
PICKLES = {"pyd", "pickle", "pkl", "pth", "pt"}
LONGEST_TEXT = 10_000_000  # bytes of one .txt or .json
CHUNK = 1 << 20
# What a damaged archive makes tarfile and gzip raise.
DAMAGE = (OSError, EOFError, ValueError, RecursionError, tarfile.TarError, zlib.error)
END = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class ShardSample:
    """A pair as it lies in a shard. number: its place there, counting the unusable ones."""

    key: str
    number: int
    image: bytes
    captions: list[str]


@dataclass(frozen=True, slots=True)
class ShardLoss:
    """A sample that cannot be used, or all from this number on."""

    number: int
    skip: Skipped


def read_shard(
    name: str, *, first: int = 0, caption_key: str | None = None
) -> Iterator[ShardSample | ShardLoss]:
    """The samples of a shard from the one numbered `first`; and what is lost.

    A shard that is missing, damaged or ends early ends with such a loss. Captions are the list or
    text of the .json (under `caption_key`, else captions, caption, …), else the .txt as a whole.
    """
    label = name.rpartition("/")[2]
    number = -1
    try:
        for number, group in enumerate(_groups(name, first)):
            if number < first:
                continue
            key = f"{label}/{group.key}"
            sample = _sample(key, number, group, caption_key)
            yield sample if isinstance(sample, ShardSample) else ShardLoss(number, sample)
    except FileNotFoundError:
        yield ShardLoss(number + 1, Skipped(name, "missing shard"))
    except DAMAGE as error:
        detail = f"read up to sample {number}: {error}"
        yield ShardLoss(number + 1, Skipped(name, "damaged shard", detail))


class ReadableFile(Protocol):
    """All that is asked of a file, wherever it is."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""


@dataclass(slots=True)
class _Group:
    """The members of one sample. trouble: a reason not to use it."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    trouble: str | None = None


def _groups(name: str, first: int) -> Iterator[_Group]:
    """Members put together by key; those of samples before `first` stay empty.

    Raises one of DAMAGE where the shard is damaged; the sample that was being read then is not
    given, as its other members are unknown.
    """
    with (
        _opened(name) as raw,
        _Forward(raw) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        group: _Group | None = None
        number = -1
        for member in archive:
            named = MEMBER.fullmatch(member.name)
            if not member.isreg() or named is None:
                continue
            key, extension = named.group(1), named.group(2).lower()
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group, number = _Group(key), number + 1
            if number >= first:
                _take(group, archive, member, extension)
        # tarfile takes whatever is no header for the end.
        if file.last != END:
            raise tarfile.ReadError("it ends without the mark of the end")
        if group is not None:
            yield group


def _take(group: _Group, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> None:
    kind = extension.rpartition(".")[2]
    if kind in PICKLES:
        group.trouble = f"it holds a pickle (.{extension}), which is never read"
    elif kind in IMAGE_EXTENSIONS or extension == "json" or extension in TEXT_EXTENSIONS:
        if member.size > (MAX_BYTES if kind in IMAGE_EXTENSIONS else LONGEST_TEXT):
            group.trouble = f"its .{extension} has {member.size:,} bytes"
            return
        content = archive.extractfile(member)
        if content is not None:
            group.members.setdefault(extension, content.read())


def _sample(key: str, number: int, group: _Group, caption_key: str | None) -> ShardSample | Skipped:
    if group.trouble is not None:
        return Skipped(key, "refused", group.trouble)
    images = (e for e in group.members if e.rpartition(".")[2] in IMAGE_EXTENSIONS)
    extension = next(images, None)
    if extension is None:
        return Skipped(key, "no image", f"it has {', '.join(group.members) or 'nothing'}")
    captions = _captions(group.members, caption_key)
    if not captions:
        return Skipped(key, "no caption", f"it has {', '.join(group.members)}")
    return ShardSample(key, number, group.members[extension], captions)


def _captions(members: dict[str, bytes], caption_key: str | None) -> list[str]:
    values = _json(members["json"]) if "json" in members else {}
    name = caption_key or guess(values, CAPTION_NAMES)
    captions = texts_of(values.get(name)) if name is not None else []
    if captions or caption_key is not None:
        return captions
    texts = (members[e].decode("utf-8", "replace") for e in members if e in TEXT_EXTENSIONS)
    return texts_of(next(texts, None))


def _json(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


@contextmanager
def _opened(name: str) -> Iterator[ReadableFile]:
    """The uncompressed bytes of a shard."""
    with _raw(name) as raw:
        if name.endswith((".gz", ".tgz")):
            with gzip.GzipFile(fileobj=raw) as file:
                yield file
        else:
            yield raw


@contextmanager
def _raw(name: str) -> Iterator[Any]:
    if not is_remote(name):
        with Path(name).open("rb") as file:
            yield file
        return
    try:
        opened = fsspec.open(name, "rb").open()
    except ImportError as error:
        raise missing_package(name, error) from error
    except OSError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise OSError(str(error)) from error
    with opened:
        yield opened


class _Forward(io.RawIOBase):
    """A file that is only ever read on, as a download is; remembers the last block it gave.

    Errors of a remote file, of whatever kind, become OSError.
    """

    def __init__(self, file: ReadableFile) -> None:
        self._file, self._position = file, 0
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        parts, wanted = [], size
        while wanted:
            try:
                part = self._file.read(min(wanted, CHUNK))
            except (OSError, EOFError, zlib.error):
                raise
            except Exception as error:  # each kind of storage has errors of its own
                raise OSError(str(error)) from error
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        data = b"".join(parts)
        self._position += len(data)
        self.last = data
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Read on to a later position."""
        if whence != io.SEEK_SET or position < self._position:
            raise OSError("a shard is read front to back only")
        while self._position < position and self.read(min(position - self._position, CHUNK)):
            pass
        return self._position
