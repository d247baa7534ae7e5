"""Inverted lists of 8-bit codes: for collections of which a query cannot look at every row.

The rows of `csd_index` are sorted into lists around centres; a query scans the lists whose centres
are nearest to it. What it finds are candidates: the ranking measures them again from the stored
rows. FAISS does the arithmetic; the file is ours, so that every list has a checksum of its own,
compared when a query first comes to it, and no byte of it can lead FAISS astray.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from prolip_search.indexes.blocks import (
    CheckedBlocks,
    DerivedDamage,
    Floats,
    Ints,
    MappedFile,
    between,
)
from prolip_search.indexes.csd_index import (
    BLAS_FROM_QUERIES,
    augmented_rows,
    in_threads,
    padded_width,
    selecting,
)
from prolip_search.indexes.durable import TEMPORARY_SUFFIX
from prolip_search.indexes.rows import RowSource

# Codes, centres and queries are padded with zeros to a multiple of this, so that FAISS's loop over
# a code runs in its widest form (520 coordinates took twice as long as 528).
CODE_STEP = 16
ROWS_PER_CENTRE = 64  # of the sample that the centres are trained on
LARGEST_SAMPLE = 1 << 17  # rows: at D = 512 a quarter of a gigabyte
BLOCK_ROWS = 8192  # rows encoded at once
# Lists are made by Euclidean distance, in which the coordinate that holds the uncertainty counts so
# many times more than it measures: the score of every query goes by all of it, and by a mean only
# so far as the two agree. And a list whose rows lie far apart may hold one much nearer to a query
# than its centre is: so much of their root mean square distance from it is added to its score.
# (Together: half the rows to scan for recall 0.95 at uncertainties of 0 to 0.5, and no more of them
# at 0.005 to 0.06.)
SCALE = 6.0
BONUS = 0.2
SEED = 20240101
# A filter that lets through at most this share is given lists of its own when it is used again:
# rows picked out of lists one by one cost five times as much as rows that follow each other. One
# that lets through more is applied to what was found, with so many times more of it.
NARROW_SHARE = 0.25
LARGEST_NARROWED = 1 << 28  # bytes that such lists may take
OVERFETCH = 1.25
_HEAD = struct.Struct("<8sIIQQ")  # magic, W, 1, N, number of lists
_MAGIC = b"PSCSDIVF"


def lists_for(n_rows: int) -> int:
    """How many lists so many rows are sorted into: about 1.6 √N, a power of two."""
    return int(1 << max(2, round(np.log2(1.6 * max(n_rows, 1) ** 0.5))))


def code_width(dim: int) -> int:
    """The width W of a code: D + 1 rounded up to a multiple of CODE_STEP."""
    return -(-(dim + 1) // CODE_STEP) * CODE_STEP


class AugmentedRows:
    """The augmented rows of a source, by position and block by block.

    width: the columns they have, P unless told otherwise; those beyond D + 1 are zeros.
    """

    def __init__(self, rows: RowSource, dim: int, width: int | None = None) -> None:
        self._rows = rows
        self.n_rows, self.dim = len(rows), dim
        self.width = padded_width(dim) if width is None else width

    def at(self, rows: Ints) -> Floats:
        """Some rows, [n, width]."""
        found = np.zeros((len(rows), self.width), np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            some = rows[start : start + BLOCK_ROWS]
            mean, uncertainty = self._rows.vectors("mean", some), self._rows.uncertainty(some)
            augmented = augmented_rows(mean, uncertainty)
            found[start : start + BLOCK_ROWS, : augmented.shape[1]] = augmented
        return found

    def __iter__(self) -> Iterator[Floats]:
        """All rows in order, BLOCK_ROWS at a time."""
        for start in range(0, self.n_rows, BLOCK_ROWS):
            yield self.at(np.arange(start, min(start + BLOCK_ROWS, self.n_rows)))


def write_ivf(path: Path, rows: AugmentedRows) -> dict[str, Any]:
    """Trains on a sample, encodes all rows and writes the lists; what csd.json says of the file.

    Needs memory for the sample, a few blocks and 24 bytes a row. Raises OSError.
    """
    n_rows, width = rows.n_rows, rows.width
    n_lists = min(lists_for(n_rows), max(1, n_rows))
    rng = np.random.default_rng(SEED)
    n_sample = min(n_rows, LARGEST_SAMPLE, ROWS_PER_CENTRE * n_lists)
    sample = rows.at(np.sort(rng.choice(n_rows, n_sample, replace=False)))
    sample[:, rows.dim] *= SCALE  # in place, as all that follows: it is what needs most memory
    clustering = faiss.Kmeans(
        width,
        n_lists,
        seed=SEED,
        min_points_per_centroid=1,  # small collections are for tests; no warning for them
        max_points_per_centroid=ROWS_PER_CENTRE,
    )
    clustering.train(sample)
    nearest = faiss.IndexFlatL2(width)
    scaled_centres: Floats = np.asarray(clustering.centroids)
    nearest.add(scaled_centres)
    centres = _scaled(scaled_centres, rows.dim, 1 / SCALE)
    quantizer = faiss.IndexFlatIP(width)
    quantizer.add(centres)
    index = _lists_around(quantizer, n_lists, width, faiss.ScalarQuantizer.QT_8bit)
    of_sample = nearest.search(sample, 1)[1][:, 0]
    for start in range(0, n_sample, BLOCK_ROWS):
        some = slice(start, start + BLOCK_ROWS)
        sample[some] = _scaled(sample[some], rows.dim, 1 / SCALE) - centres[of_sample[some]]
    index.sq.train(sample)
    index.is_trained = True
    squares = np.bincount(of_sample, np.einsum("nd,nd->n", sample, sample), n_lists)
    del sample
    spread = np.sqrt(squares / np.maximum(1, np.bincount(of_sample, minlength=n_lists)))
    codes_path = path.with_name(f"{path.name}-codes{TEMPORARY_SUFFIX}")
    lists = np.empty(n_rows, np.int64)
    done = 0
    with codes_path.open("wb") as file:
        for block in rows:
            block_lists = nearest.search(_scaled(block, rows.dim, SCALE), 1)[1][:, 0]
            codes = np.empty((len(block), width), np.uint8)
            index.encode_vectors(
                len(block),
                faiss.swig_ptr(block),
                faiss.swig_ptr(block_lists),
                faiss.swig_ptr(codes),
            )
            file.write(codes.data)
            lists[done : done + len(block)] = block_lists
            done += len(block)
    order = np.argsort(lists, kind="stable")
    sizes = np.bincount(lists, minlength=n_lists).astype("<i8")
    encoded = np.memmap(codes_path, np.uint8, "r", shape=(n_rows, width))
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    crcs = np.zeros(n_lists, "<u4")
    start = 0
    with temporary.open("wb") as file:
        for number, size in enumerate(sizes.tolist()):
            members = order[start : start + size].astype("<i8")
            content = encoded[members].tobytes() + members.tobytes()
            crcs[number] = zlib.crc32(content)
            file.write(content)
            start += size
        head = b"".join(
            (
                _HEAD.pack(_MAGIC, width, 1, n_rows, n_lists),
                sizes.tobytes(),
                centres.astype("<f4").tobytes(),
                faiss.vector_to_array(index.sq.trained).astype("<f4").tobytes(),
                spread.astype("<f4").tobytes(),
                crcs.tobytes(),
            )
        )
        file.write(head)
    codes_path.unlink()
    temporary.replace(path)
    return {
        "kind": "ivf",
        "file": path.name,
        "size_bytes": n_rows * (width + 8) + len(head),
        "head_crc32": zlib.crc32(head),
        "n_lists": n_lists,
    }


@dataclass
class _Under:
    """What searches under one mask need. index: with only the rows it allows, once that pays."""

    allowed: NDArray[np.bool_]
    share: float
    index: Any = None
    n_uses: int = 0


class IvfIndex:
    """Inverted lists, memory-mapped. `n_probes` of them are scanned for a query."""

    kind = "ivf"
    rounding = None  # what lies in other lists is not known

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, n_rows: int, dim: int) -> None:
        """facts: what `write_ivf` gave, `n_probes` and `margin`. Raises DerivedDamage, and
        KeyError, TypeError or ValueError for facts that no writer gives.
        """
        width = code_width(dim)
        self._file = file = MappedFile(folder / facts["file"], int(facts["size_bytes"]))
        self.n_rows, self.n_lists = n_rows, int(facts["n_lists"])
        at = n_rows * (width + 8)
        n_lists = self.n_lists
        head_bytes = _HEAD.size + n_lists * (8 + 4 * width + 4 + 4) + 2 * width * 4
        if n_lists < 1 or len(file.memory) != at + head_bytes:
            raise DerivedDamage(file.path, f"it does not hold {n_rows} rows in {n_lists} lists")
        file.check(at, len(file.memory), int(facts["head_crc32"]))
        expected = _HEAD.pack(_MAGIC, width, 1, n_rows, n_lists)
        sizes = np.frombuffer(file.memory, "<i8", n_lists, at + _HEAD.size)
        if (
            bytes(file.memory[at : at + _HEAD.size]) != expected
            or (sizes < 0).any()
            or (sizes > n_rows).any()
            or sizes.sum() != n_rows
        ):
            raise DerivedDamage(file.path, "its head is not that of such an index")
        at += _HEAD.size + 8 * n_lists
        centres = np.frombuffer(file.memory, "<f4", n_lists * width, at).reshape(n_lists, width)
        at += centres.nbytes
        trained = np.frombuffer(file.memory, "<f4", 2 * width, at)
        at += trained.nbytes
        spread = np.frombuffer(file.memory, "<f4", n_lists, at)
        crcs = np.frombuffer(file.memory, "<u4", n_lists, at + spread.nbytes)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64) * (width + 8)
        self._blocks = CheckedBlocks(file, crcs, between(starts))
        self.n_probes = int(facts["n_probes"])
        self.margin = int(facts["margin"])
        if not 1 <= self.n_probes <= n_lists or not 0 <= self.margin <= 1 << 20:
            raise DerivedDamage(file.path, "its settings are impossible")
        self._dim, self._width = dim, width
        # Byte c stands for minimum + range · (c + ½) / 255. FAISS scans twice as fast if every
        # coordinate has the same minimum and range; so bytes are taken for c − 127.5, queries are
        # multiplied by the steps, and what is the same for all rows is added.
        minima, ranges = trained.reshape(2, width)
        self._steps = ranges / np.float32(255)
        self._middle = minima + ranges / 2
        self._bonus = BONUS * spread
        quantizer = faiss.IndexFlatIP(width)  # what says which lists to scan
        quantizer.add(centres)
        raised = faiss.rev_swig_ptr(quantizer.get_xb(), n_lists * width)
        raised.reshape(n_lists, width)[:, dim] += self._bonus
        self._index = _scanner(quantizer, n_lists, width)
        self._index.ntotal = n_rows
        self._sizes = sizes
        self._last: _Under | None = None
        self._lists = faiss.OnDiskInvertedLists(n_lists, width, file.own_name)
        self._lists.read_only = True
        self._lists.prefetch_nthread = 0
        own_sizes = sizes.astype(np.uint64)  # named: swig_ptr keeps nothing alive
        self._lists.set_all_lists_sizes(faiss.swig_ptr(own_sizes))
        self._lists.totsize = n_rows * (width + 8)
        if n_rows:
            self._lists.do_mmap()
        self._index.replace_invlists(self._lists, False)

    def search(
        self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None, *, widen: float = 1.0
    ) -> tuple[Floats, Ints]:
        """The k best rows of every query among those of the lists scanned.

        widen: scans so many times more lists than the setting says. Raises DerivedDamage.
        """
        k = min(k, self.n_rows)
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        n_probes = min(self.n_lists, int(np.ceil(self.n_probes * widen)))
        if allowed is None:
            return self._scan(self._index, queries, k, n_probes, None)
        under = self._under(allowed)
        if under.share > NARROW_SHARE:
            wide = min(self.n_rows, int(OVERFETCH * k / under.share) + 1)
            scores, rows = self._scan(self._index, queries, wide, n_probes, None)
            passed = (rows >= 0) & allowed[rows]
            if (passed.sum(1) >= k).all():
                first = np.argsort(~passed, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(scores, first, 1), np.take_along_axis(rows, first, 1)
        else:
            used_again = under.n_uses > 1 or len(queries) >= BLAS_FROM_QUERIES
            fits = under.share * self.n_rows * (self._width + 8) <= LARGEST_NARROWED
            if under.index is None and used_again and fits:
                under.index = self._narrowed(allowed)
            if under.index is not None:
                return self._scan(under.index, queries, k, n_probes, None)
        return self._scan(self._index, queries, k, n_probes, allowed)

    def _scan(
        self, index: Any, queries: Floats, k: int, n_probes: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[Floats, Ints]:
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = n_probes
        with selecting(parameters, allowed):

            def scan(some: Floats) -> tuple[Floats, Ints]:
                wide = np.zeros((len(some), self._width), np.float32)
                wide[:, : some.shape[1]] = some
                nearness, lists = self._index.quantizer.search(wide, n_probes)
                self._blocks.check(lists)
                # Codes are relative to the centres themselves.
                nearness -= wide[:, self._dim, None] * self._bonus[lists]
                nearness += (wide @ self._middle)[:, None]
                wide *= self._steps
                scores = np.empty((len(some), k), np.float32)
                rows = np.empty((len(some), k), np.int64)
                # FAISS's own wrapper of this function takes no parameters.
                index.search_preassigned_c(
                    len(some),
                    faiss.swig_ptr(wide),
                    k,
                    faiss.swig_ptr(lists),
                    faiss.swig_ptr(nearness),
                    faiss.swig_ptr(scores),
                    faiss.swig_ptr(rows),
                    False,
                    parameters,
                )
                return scores, rows

            n_products = len(queries) * (
                self.n_lists + self.n_rows * n_probes // self.n_lists
            ) * queries.shape[1]  # fmt: skip
            scores, rows = in_threads(scan, queries, n_products)
        if rows.size and (rows.max() >= self.n_rows or rows.min() < -1):
            raise DerivedDamage(self._file.path, "it names rows that do not exist")
        return scores, rows

    def _under(self, allowed: NDArray[np.bool_]) -> _Under:
        """What is known of a mask; that of the last one is kept."""
        under = self._last
        known = under is not None and (
            (allowed.base is not None and allowed.base is under.allowed.base)
            or np.array_equal(allowed, under.allowed)
        )
        if under is None or not known:
            share = np.count_nonzero(allowed) / self.n_rows
            self._last = under = _Under(allowed, share)
        under.n_uses += 1
        return under

    def _narrowed(self, allowed: NDArray[np.bool_]) -> Any:
        """An index with only the allowed rows in its lists, in memory. Raises DerivedDamage."""
        self._blocks.check(np.arange(self.n_lists))
        lists = faiss.ArrayInvertedLists(self.n_lists, self._width)
        start = 0
        for number, size in enumerate(self._sizes.tolist()):
            codes = np.frombuffer(self._file.memory, np.uint8, size * self._width, start)
            rows = np.frombuffer(self._file.memory, "<i8", size, start + len(codes))
            if size and not 0 <= rows.min() <= rows.max() < self.n_rows:
                raise DerivedDamage(self._file.path, "it names rows that do not exist")
            kept = np.flatnonzero(allowed[rows])
            own_codes, own_rows = codes.reshape(size, self._width)[kept], rows[kept]
            if len(kept):
                lists.add_entries(
                    number, len(kept), faiss.swig_ptr(own_rows), faiss.swig_ptr(own_codes)
                )
            start += size * (self._width + 8)
        made = _scanner(self._index.quantizer, self.n_lists, self._width)
        made.ntotal = self.n_rows
        made.replace_invlists(lists, True)
        setattr(lists, "thisown", False)  # noqa: B010  # SWIG's; they are `made`'s, while that lives
        return made

    def check_all(self) -> None:
        """Makes sure of every byte. Raises DerivedDamage."""
        self._blocks.check_all()


def _scaled(rows: Floats, dim: int, scale: float) -> Floats:
    """A copy with the coordinate of the uncertainty multiplied."""
    scaled = rows.copy()
    scaled[:, dim] *= np.float32(scale)
    return scaled


def _lists_around(quantizer: Any, n_lists: int, width: int, codec: int) -> Any:
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, width, n_lists, codec, faiss.METRIC_INNER_PRODUCT, True
    )
    index.parallel_mode = 0
    return index


def _scanner(quantizer: Any, n_lists: int, width: int) -> Any:
    """Scans codes of bytes c as c − 127.5."""
    index = _lists_around(quantizer, n_lists, width, faiss.ScalarQuantizer.QT_8bit_uniform)
    faiss.copy_array_to_vector(np.array([-128, 255], np.float32), index.sq.trained)
    index.is_trained = True
    return index
