"""Reading, encoding and committing the photos that an indexing run found to be new or changed.

Threads read, hash, decode and resize; meanwhile the encoder runs on what they have prepared. One
batch at a time is committed, so that a run that is cut short goes on where it stopped, and ends
with the same items as a run that was not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL.Image import Image

from prolip_search.changes import PASSING_REASONS, Candidate, Changes, SkippedFile, StoredFile
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import UnreadableImage
from prolip_search.files import content_hash, read_file
from prolip_search.gaussians import Gaussians
from prolip_search.images import decode
from prolip_search.indexes.store import Store

BATCH_SIZE = 256  # photos per commit: what a kill can cost
# Columns that two files of the same bytes share.
OF_CONTENT = (
    *("width", "height", "format", "taken_at", "camera_make", "camera_model", "orientation"),
    *("latitude", "longitude", "altitude_m", "mean", "log_variance"),
)
ENCODE_SIZE = 32  # photos the encoder sees at once: more gains nothing on a CPU, and takes memory
READ_AHEAD = 2 * ENCODE_SIZE  # prepared photos that may wait for the encoder

Progress = Callable[[int, int], None]  # photos done, photos to do
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Known:
    """A file whose content is in the index already, under another name or time."""

    content_hash: str


@dataclass(frozen=True, slots=True)
class _Photo:
    """A file made ready for the encoder. prepared: [3, H, W]; facts: columns of its row."""

    content_hash: str
    prepared: NDArray[Any]
    facts: dict[str, Any]


class Ingestion:
    """One run: what was read and is not committed yet, and the counts so far."""

    def __init__(
        self,
        store: Store,
        changes: Changes,
        stored: Sequence[StoredFile],
        taken: set[str],
        batch_size: int,
    ) -> None:
        self.n_added = self.n_changed = self.n_moved = self.n_touched = self.n_removed = 0
        self.skipped: list[SkippedFile] = []
        self._store = store
        self._changes = changes
        self._taken = taken
        self._batch_size = batch_size
        self._waiting: dict[str, tuple[Candidate, _Photo]] = {}  # for the encoder, by new id
        self._rows: list[dict[str, Any]] = []  # for the commit, with their Gaussians
        self._gaussians: list[Gaussians] = []
        self._copies: list[tuple[str, dict[str, Any]]] = []  # id of the twin, own columns
        self._moves: list[dict[str, Any]] = []
        self._replaced: list[str] = []
        # Files that may have moved, by content: surely gone, or outside the roots of this run.
        self._missing: dict[str, list[StoredFile]] = {}
        away = chain(changes.gone.values(), changes.missing.values(), *changes.elsewhere.values())
        for row in away:
            self._missing.setdefault(row.content_hash, []).append(row)
        # An item that has each content, so that no content is encoded twice.
        self._by_content = {row.content_hash: row.id for row in stored}

    def read_and_encode(self, encoder: Encoder, n_threads: int, progress: Progress) -> None:
        """Reads every candidate, in order, and commits batch by batch."""
        candidates = self._changes.to_read
        read = partial(self._read, encoder)
        with closing(_in_threads(read, candidates, n_threads)) as photos:
            for n_done, (candidate, photo) in enumerate(photos, start=1):
                if isinstance(photo, _Known) and not self._claim(candidate, photo):
                    photo = self._read(encoder, candidate)  # another copy of it came first
                if isinstance(photo, UnreadableImage):
                    self._skip(candidate, photo)
                elif isinstance(photo, _Photo):
                    self._add(candidate, photo)
                if len(self._waiting) >= min(ENCODE_SIZE, self._batch_size - len(self._rows)):
                    self._encode(encoder)
                n_rows = len(self._rows) + len(self._copies)
                if n_rows >= self._batch_size or len(self._moves) >= self._batch_size:
                    self._commit()
                progress(n_done, len(candidates))
        self._encode(encoder)

    def finish(self) -> None:
        """Commits the rest, and drops what is gone: last, when no new file can claim it."""
        gone = [*self._changes.gone, *self._changes.excluded]
        self.n_removed += len(gone)
        self._replaced += [*gone, *self._changes.stale]
        self._commit()

    def _read(self, encoder: Encoder, candidate: Candidate) -> _Known | _Photo | UnreadableImage:
        """Runs in a thread."""
        path = candidate.found.path
        try:
            data = read_file(path)
            digest = content_hash(data)
            known = candidate.stored is not None and candidate.stored.content_hash == digest
            moved = any(self._is_gone(row) for row in self._missing.get(digest, ()))
            if known or moved or digest in self._by_content:
                return _Known(digest)
            picture = decode(data, path, min_side=encoder.image_size)
        except UnreadableImage as error:
            return error
        facts = {"width": picture.width, "height": picture.height, "format": picture.format}
        facts |= asdict(picture.exif)
        return _Photo(digest, encoder.prepare_image(picture.pixels), facts)

    def _is_gone(self, row: StoredFile) -> bool:
        return row.id in self._changes.gone or not is_there(self._store, row.path)

    def _claim(self, candidate: Candidate, known: _Known) -> bool:
        """Whether the file is still but touched, moved, or a copy of another; then it is noted."""
        row = candidate.stored
        if row is not None and row.content_hash == known.content_hash:
            self.n_touched += 1
        else:
            missing = self._missing.get(known.content_hash, [])
            row = next((row for row in missing if self._is_gone(row)), None)
            if row is None:
                return self._copy(candidate, known.content_hash)
            missing.remove(row)
            self._changes.gone.pop(row.id, None)
            self._changes.missing.pop(row.id, None)
            self.n_moved += 1
            if candidate.stored is not None:
                self._replace(candidate.stored)
        self._moves.append(
            {"id": row.id, "path": candidate.path, "mtime_ns": candidate.found.mtime_ns}
        )
        return True

    def _skip(self, candidate: Candidate, error: UnreadableImage) -> None:
        found = candidate.found
        self.skipped.append(
            SkippedFile(
                path=candidate.path,
                reason=error.reason,
                detail=error.detail,
                size_bytes=found.size_bytes,
                mtime_ns=found.mtime_ns,
            )
        )
        # The index must not go on answering with what the file no longer shows.
        if candidate.stored is not None and error.reason not in PASSING_REASONS:
            self._replace(candidate.stored)
            self.n_removed += 1

    def _add(self, candidate: Candidate, photo: _Photo) -> None:
        """Puts a photo before the encoder, unless one with the same bytes was there just now."""
        if not self._copy(candidate, photo.content_hash):
            new = item_id(photo.content_hash, candidate.path, self._taken)
            self._waiting[new] = (candidate, photo)
            self._by_content[photo.content_hash] = new
            self._count(candidate)

    def _copy(self, candidate: Candidate, content: str) -> bool:
        """Whether an item has this content already; then the file becomes an item beside it."""
        twin = self._by_content.get(content)
        if twin is None:
            return False
        new = item_id(content, candidate.path, self._taken)
        self._copies.append((twin, _own_columns(new, candidate, content)))
        self._count(candidate)
        return True

    def _count(self, candidate: Candidate) -> None:
        if candidate.stored is None:
            self.n_added += 1
        else:
            self.n_changed += 1
            self._replace(candidate.stored)

    def _replace(self, row: StoredFile) -> None:
        """Drops a row with the next commit; nothing more is copied from it."""
        self._replaced.append(row.id)
        if self._by_content.get(row.content_hash) == row.id:
            del self._by_content[row.content_hash]

    def _encode(self, encoder: Encoder) -> None:
        """Everything that waits, in one call of the encoder."""
        if not self._waiting:
            return
        photos = [photo for _, photo in self._waiting.values()]
        self._gaussians.append(encoder.encode_prepared(np.stack([p.prepared for p in photos])))
        self._rows += [
            _own_columns(new, candidate, photo.content_hash) | photo.facts
            for new, (candidate, photo) in self._waiting.items()
        ]
        self._waiting.clear()

    def _commit(self) -> None:
        """New rows first: a crash in between leaves an old row too many, never a photo too few."""
        if self._rows:
            self._store.append(item_rows(self._rows, Gaussians.concatenate(self._gaussians)))
        self._append_copies()
        if self._moves:
            self._store.move(pa.Table.from_pylist(self._moves))
        if self._replaced:
            self._store.delete(self._replaced)
        for done in (self._rows, self._gaussians, self._moves, self._replaced):
            done.clear()

    def _append_copies(self) -> None:
        """Rows with the Gaussians of their twins, but of those that are still to be encoded."""
        ready = [copy for copy in self._copies if copy[0] not in self._waiting]
        if not ready:
            return
        self._copies = [copy for copy in self._copies if copy[0] in self._waiting]
        twins = [twin for twin, _ in ready]
        table = self._store.read_items(sorted(set(twins)), ["id", *OF_CONTENT])
        at = {id: number for number, id in enumerate(table["id"].to_pylist())}
        shared = table.drop_columns("id").take([at[twin] for twin in twins])
        own = pa.Table.from_pylist([columns for _, columns in ready])
        for name in shared.column_names:
            own = own.append_column(name, shared[name])
        self._store.append(own)


def _own_columns(new: str, candidate: Candidate, content: str) -> dict[str, Any]:
    """What a row says of its file, and not of what the file holds."""
    return {
        "id": new,
        "kind": "image",
        "path": candidate.path,
        "size_bytes": candidate.found.size_bytes,
        "mtime_ns": candidate.found.mtime_ns,
        "content_hash": content,
    }


def item_id(content: str, path: str, taken: set[str]) -> str:
    """The id of a photo for life: 64 bits of its content hash and the path it was first seen at.

    Depends on nothing else, so that a resumed run gives the ids of an uninterrupted one; where
    `taken` has it already, a number is added. Puts the id into `taken`.
    """
    name, attempt = f"{content}/{path}", 0
    while (new := hashlib.blake2b(name.encode(), digest_size=8).hexdigest()) in taken:
        attempt += 1
        name = f"{content}/{path}/{attempt}"
    taken.add(new)
    return new


def content_id(item: str | Image) -> str:
    """The id of a text or a picture that is no file: 64 bits of a hash of its content."""
    if isinstance(item, str):
        content = f"text/{item}".encode()
    else:
        content = f"image/{item.mode}/{item.size}/".encode() + item.tobytes()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def facts_of_given(
    items: Sequence[str | Image],
    ids: Sequence[str],
    metadata: Sequence[Mapping[str, Any] | None] | None,
) -> list[dict[str, Any]]:
    """Columns of the rows of texts and of pictures that are no files."""
    return [
        {
            "id": ids[i],
            "kind": "text" if isinstance(item, str) else "image",
            "text": item if isinstance(item, str) else None,
            "width": None if isinstance(item, str) else item.width,
            "height": None if isinstance(item, str) else item.height,
            "metadata": json.dumps(metadata[i]) if metadata and metadata[i] else None,
        }
        for i, item in enumerate(items)
    ]


def item_rows(facts: list[dict[str, Any]], gaussians: Gaussians) -> pa.Table:
    """Rows for Store.append: the facts of N items and their Gaussians [N, D]."""
    rows = pa.Table.from_pylist(facts)
    for name in ("mean", "log_variance"):
        values = pa.array(getattr(gaussians, name).ravel(), pa.float32())
        rows = rows.append_column(name, pa.FixedSizeListArray.from_arrays(values, gaussians.dim))
    return rows


def _in_threads(
    function: Callable[[Candidate], R], candidates: Iterable[Candidate], n_threads: int
) -> Generator[tuple[Candidate, R]]:
    """Results in the order of the candidates, at most READ_AHEAD of them ahead of the consumer."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="read-photos")
    waiting: deque[tuple[Candidate, Future[R]]] = deque()
    try:
        for candidate in candidates:
            waiting.append((candidate, pool.submit(function, candidate)))
            if len(waiting) > READ_AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def is_there(store: Store, path: str) -> bool:
    return os.path.lexists(store.root / path)
