"""Files of which only what is touched is read, and nothing is used before it has been checked.

Checking all of a large file would cost as much as reading it. Its blocks have checksums of their
own instead, and a block is compared with its checksum when it is first touched.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prolip_search.errors import IndexDamaged

# From so many bytes on two threads compare checksums: half a millisecond's work for one.
SHARED_BYTES = 1 << 21

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class DerivedDamage(IndexDamaged):
    """A derived file is not what was written. Readers then do without it; it leaves this room only
    where somebody asks for a check.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path} is damaged: {what}. It is derived from the items table; "
            "run `prolip-search optimize` to write it anew.",
            path=path,
        )


class MappedFile:
    """A file of a known size, mapped into memory; the same file for as long as this lives."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Raises DerivedDamage when it is not there or of another size."""
        self.path = path
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(self._file).st_size
            if size != size_bytes:
                raise DerivedDamage(path, f"it has {size} bytes, not {size_bytes}")
            self.memory: memoryview = memoryview(b"")
            if size:
                self.memory = memoryview(mmap(self._file, 0, access=ACCESS_READ))
        except OSError as error:
            raise DerivedDamage(path, error.strerror or str(error)) from error

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)

    @property
    def own_name(self) -> str:
        """A name under which this very file is opened again, were another put in its place."""
        return f"/dev/fd/{self._file}"

    def crc32(self, start: int, stop: int, after: int = 0) -> int:
        """The CRC-32 of some bytes, going on from another's."""
        return zlib.crc32(self.memory[start:stop], after)

    def check(self, start: int, stop: int, crc: int) -> None:
        """Compares bytes with their CRC-32. Raises DerivedDamage."""
        if self.crc32(start, stop) != crc:
            raise DerivedDamage(self.path, f"bytes {start} to {stop} are not what was written")


class CheckedBlocks:
    """Blocks of a mapped file, numbered from 0, each compared with its checksum once."""

    def __init__(
        self,
        file: MappedFile,
        crcs: NDArray[np.uint32],
        stretches: Callable[[int], Sequence[tuple[int, int]]],
    ) -> None:
        """stretches: where the bytes of a block begin and end, in the order of its checksum."""
        self._file = file
        self._crcs = crcs
        self._stretches = stretches
        self._checked = np.zeros(len(crcs), np.bool_)

    def __len__(self) -> int:
        return len(self._crcs)

    def check(self, blocks: Ints) -> None:
        """Makes sure of some blocks. Raises DerivedDamage. Threads may do so at once."""
        new = blocks[~self._checked[blocks]]
        if len(new) == 0:
            return
        numbers = sorted(set(new.tolist()))
        half = len(numbers) // 2
        n_bytes = sum(stop - start for start, stop in self._stretches(numbers[half]))
        if half and n_bytes * len(numbers) > SHARED_BYTES and (os.cpu_count() or 1) > 1:
            with ThreadPoolExecutor(1) as pool:  # zlib lets another thread run meanwhile
                other = pool.submit(self._check, numbers[:half])
                self._check(numbers[half:])
                other.result()
        else:
            self._check(numbers)

    def _check(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            found = 0
            for start, stop in self._stretches(block):
                found = self._file.crc32(start, stop, found)
            if found != self._crcs[block]:
                start, stop = self._stretches(block)[0]
                raise DerivedDamage(
                    self._file.path, f"bytes {start} to {stop} are not what was written"
                )
            self._checked[block] = True

    def check_rest(self) -> None:
        """Makes sure of every block that was not checked before."""
        if not self._checked.all():
            self.check(np.flatnonzero(~self._checked))

    def check_all(self) -> None:
        """Makes sure of every block, those that were checked before among them."""
        self._checked[:] = False
        self.check(np.arange(len(self)))


def between(bounds: Ints) -> Callable[[int], Sequence[tuple[int, int]]]:
    """Blocks that follow each other: bounds [n + 1], where each begins and the last one ends."""
    return lambda block: [(int(bounds[block]), int(bounds[block + 1]))]
