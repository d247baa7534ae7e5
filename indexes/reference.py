"""The reference sample: a few thousand items that stand for a whole collection.

Each content has a key, the hash of its bytes' hash (of its id, where it is no file), and the sample
is the contents with the smallest keys: uniform, the same whatever else comes or goes, and with each
content in it once. A derived file holds the keys of a part's rows and the Gaussians of its own
sample, so that a query reads 6 MB in one piece instead of 2,048 rows from all over.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prolip_search.confidence.background import REFERENCE_SIZE, reference_rank
from prolip_search.indexes.blocks import DerivedDamage, Floats, Ints, MappedFile
from prolip_search.indexes.durable import TEMPORARY_SUFFIX
from prolip_search.indexes.rows import RowSource
from prolip_search.indexes.schema import KINDS

SAMPLE_SIZE = REFERENCE_SIZE
Keys = NDArray[np.uint64]


def content_keys(ids: Iterable[str], content_hashes: Iterable[str | None]) -> Keys:
    """[N] for N items: the key of the content hash, or of the id where there is none."""
    return reference_rank(content or id for id, content in zip(ids, content_hashes, strict=True))


def keys_of(rows: pa.Table | pa.RecordBatch) -> Keys:
    """The keys of some rows that have the columns `id` and `content_hash`."""
    return content_keys(rows.column("id").to_pylist(), rows.column("content_hash").to_pylist())


def smallest(keys: Keys, positions: Ints, n: int = SAMPLE_SIZE) -> Ints:
    """The positions of the n smallest keys, each key once; in ascending order of key.

    keys [M], of the rows at `positions` [M]. Of equal keys it is the first position.
    """
    kept = positions
    n_taken = 2 * n  # more than n, because some may be equal
    while True:
        if len(keys) > n_taken:
            near = np.argpartition(keys, n_taken - 1)[:n_taken]
        else:
            near = np.arange(len(keys))
        near.sort()
        distinct, first = np.unique(keys[near], return_index=True)
        if len(distinct) > n:
            return kept[near[first[:n]]]
        if len(near) == len(keys):
            return kept[near[first]]
        n_taken *= 4


def n_distinct(keys: Keys) -> int:
    """How many different keys there are."""
    ordered = np.sort(keys)
    return len(keys) and 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


class KeyCollector:
    """Takes the keys of rows that stream by; 8 bytes for each."""

    def __init__(self) -> None:
        self._keys = [np.empty(0, np.uint64)]

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches."""
        for batch in batches:
            self._keys.append(keys_of(batch))
            yield batch

    @property
    def keys(self) -> Keys:
        return np.concatenate(self._keys)


def write_reference(path: Path, rows: RowSource, keys: Keys, dim: int) -> dict[str, Any]:
    """Writes the file of one part; what csd.json says of it. Raises OSError.

    The part's sample is of its images alone, which is what is searched unless told otherwise.
    """
    images = np.flatnonzero(rows.kinds == KINDS.index("image"))
    sample = smallest(keys[images], images)
    head = np.concatenate(
        [
            np.ascontiguousarray(sample, "<i8").view(np.uint8),
            np.ascontiguousarray(keys[sample], "<u8").view(np.uint8),
            np.ascontiguousarray(rows.vectors("mean", sample), "<f4").ravel().view(np.uint8),
            np.ascontiguousarray(rows.uncertainty(sample), "<f4").view(np.uint8),
        ]
    ).tobytes()
    padding = -len(head) % 8
    tail = np.ascontiguousarray(keys, "<u8").tobytes()
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    temporary.write_bytes(head + bytes(padding) + tail)
    temporary.replace(path)
    return {
        "file": path.name,
        "size_bytes": len(head) + padding + len(tail),
        "n_sampled": len(sample),
        "n_images": n_distinct(keys[images]),
        "head_crc32": zlib.crc32(head),
        "keys_crc32": zlib.crc32(tail),
    }


class ReferenceFile:
    """What `write_reference` wrote of a part. What is touched is checked first."""

    def __init__(self, folder: Path, described: Mapping[str, Any], n_rows: int, dim: int) -> None:
        """Raises DerivedDamage; KeyError, TypeError or ValueError for facts of no writer."""
        n, size = int(described["n_sampled"]), int(described["size_bytes"])
        self.n_images = int(described["n_images"])
        self._file = MappedFile(folder / described["file"], size)
        self._head_bytes = n * (20 + 4 * dim)
        self._keys_at = -(-self._head_bytes // 8) * 8
        if not 0 <= n <= min(SAMPLE_SIZE, n_rows) or size != self._keys_at + 8 * n_rows:
            raise DerivedDamage(self._file.path, f"it is no sample of {n_rows} rows")
        self._n, self._n_rows, self._dim = n, n_rows, dim
        self._crcs = int(described["head_crc32"]), int(described["keys_crc32"])
        self._checked = [False, False]

    def sample(self) -> tuple[Ints, Keys, Floats, Floats]:
        """Rows [n] in ascending order of key, keys [n], means [n, D] and uncertainties [n]."""
        self._check(0, 0, self._head_bytes)
        memory, n = self._file.memory, self._n
        rows = np.frombuffer(memory, "<i8", n).astype(np.int64)
        if n and not 0 <= rows.min() <= rows.max() < self._n_rows:
            raise DerivedDamage(self._file.path, "it names rows that do not exist")
        means: Floats = np.frombuffer(memory, "<f4", n * self._dim, 16 * n).reshape(n, self._dim)
        uncertainty: Floats = np.frombuffer(memory, "<f4", n, 16 * n + 4 * n * self._dim)
        return rows, np.frombuffer(memory, "<u8", n, 8 * n), means, uncertainty

    @property
    def keys(self) -> Keys:
        """The keys of all rows, [N]."""
        self._check(1, self._keys_at, len(self._file.memory))
        return np.frombuffer(self._file.memory, "<u8", self._n_rows, self._keys_at)

    def check_all(self) -> None:
        """Makes sure of every byte. Raises DerivedDamage."""
        self._checked = [False, False]
        self.sample()
        _ = self.keys

    def _check(self, which: int, start: int, stop: int) -> None:
        if not self._checked[which]:
            self._file.check(start, stop, self._crcs[which])
            self._checked[which] = True
