"""The FAISS side of a search: which rows may be the nearest, in float32.

The rows are the augmented vectors of MATH.md, `[μ, −(u + ‖μ‖² − 1)/2]`, padded with zeros to a
multiple of 8 so that SIMD runs full width; with a query `[μ_q, 1]` descending inner product is
ascending CSD. (For a mean of exactly unit length the last coordinate is −u/2; keeping the length
makes it exact for means that float16 storage has rounded as well.) With `[μ_q, 0]` it is cosine.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from prolip_search.indexes.blocks import DerivedDamage, Floats, Ints, MappedFile

# From this many queries on a matrix product beats one scan per query: at 512 dimensions 4 times
# faster for 64 of them, and 5 times slower for one.
BLAS_FROM_QUERIES = 8
# Each thread takes queries of its own and runs FAISS on one core. FAISS's own threads wait for each
# other by spinning: on two busy cores they made a batch of 64 five to eighteen times slower than
# one thread did. A job of fewer products (queries × rows × width) is not worth a second thread.
SMALL_JOB = 1 << 24
FEW_SCORES = 1024  # of many, to tell from where the best begin
# A GPU pays for its copies only on batches, and its search stops at 2,048 results.
GPU_FROM_QUERIES = 16
GPU_LARGEST_K = 2048
_FLAT_HEADER = struct.Struct("<4siqqq?iQ")

_ALL_THREADS = faiss.omp_get_max_threads()  # OMP_NUM_THREADS, or every core


class CsdIndex(Protocol):
    """Something that finds candidates among augmented rows 0…n_rows−1 by inner product."""

    @property
    def n_rows(self) -> int: ...

    @property
    def kind(self) -> str:
        """ "flat" or "ivf"."""
        ...

    @property
    def rounding(self) -> float | None:
        """ε with |score − true inner product| <= ε · Σ|q_j x_j| for every row that exists.

        It lets the ranking prove that no row it was not given belongs among the first k. None: the
        index is approximate, and nothing is known of the rows that it does not give.
        """
        ...

    @property
    def margin(self) -> int:
        """Candidates beyond k that are worth measuring."""
        ...

    def search(
        self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None, *, widen: float = 1.0
    ) -> tuple[Floats, Ints]:
        """The k best allowed rows of every query [Q, P]: scores and rows [Q, k], best first.

        allowed [n_rows]: which rows may be found, None for all. Missing ones have row −1. widen: an
        approximate index looks at so many times more of its rows than it would.
        """
        ...


def padded_width(dim: int) -> int:
    """The width P of an augmented row: D + 1 rounded up to a multiple of 8."""
    return -(-(dim + 1) // 8) * 8


def augmented_rows(mean: Floats, uncertainty: Floats) -> Floats:
    """Items as the rows of the index: [N, D] and [N] -> [N, P], float32."""
    n, dim = mean.shape
    rows = np.zeros((n, padded_width(dim)), dtype=np.float32)
    rows[:, :dim] = mean
    squares = np.einsum("nd,nd->n", mean, mean, dtype=np.float64)
    rows[:, dim] = -0.5 * (uncertainty.astype(np.float64) + squares - 1.0)
    return rows


def augmented_queries(mean: Floats, *, with_uncertainty: bool) -> Floats:
    """Queries to go with `augmented_rows`: [Q, D] -> [Q, P]; without uncertainty it is cosine."""
    n, dim = mean.shape
    rows = np.zeros((n, padded_width(dim)), dtype=np.float32)
    rows[:, :dim] = mean
    rows[:, dim] = 1.0 if with_uncertainty else 0.0
    return rows


def rounding_of(width: int) -> float:
    """The ε of `CsdIndex.rounding` for float32 products of rows of width P, however summed."""
    # A sum of P products errs by at most about P · 2⁻²⁴ in any order of summation; two more
    # roundings are those of the last coordinate.
    return (width + 2) * 2.0**-24 * 1.01


class FlatIndex:
    """Every row compared with every query: exact up to the rounding of float32."""

    kind = "flat"
    margin = 24  # so that the ranking's proof nearly always succeeds at once

    def __init__(self, index: Any) -> None:
        self._index = index
        self._on_gpu: Any = None

    @classmethod
    def build(cls, rows: Floats) -> FlatIndex:
        """An index of augmented rows [N, P], in memory."""
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return cls(index)

    @classmethod
    def read(cls, file: MappedFile, *, n_rows: int, width: int) -> FlatIndex:
        """A written index, memory-mapped. Raises DerivedDamage unless it is byte for byte possible.

        FAISS trusts what a file says of itself, so its header must be the one header that a flat
        index of this size has before FAISS sees it.
        """
        is_possible = len(file.memory) == _FLAT_HEADER.size + 4 * n_rows * width
        if not is_possible or file.memory[: _FLAT_HEADER.size] != flat_header(n_rows, width):
            raise DerivedDamage(
                file.path, f"it is not a flat FAISS index of {n_rows} rows of {width}"
            )
        return cls(faiss.read_index(file.own_name, faiss.IO_FLAG_MMAP_IFC))

    @property
    def n_rows(self) -> int:
        return int(self._index.ntotal)

    @property
    def rounding(self) -> float:
        return rounding_of(self._index.d)

    def search(
        self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None, *, widen: float = 1.0
    ) -> tuple[Floats, Ints]:
        n_queries = len(queries)
        k = min(k, self.n_rows)
        if k == 0:
            return np.empty((n_queries, 0), np.float32), np.empty((n_queries, 0), np.int64)
        if allowed is None and n_queries >= GPU_FROM_QUERIES and k <= GPU_LARGEST_K and _has_gpu():
            scores, rows = self._copy_on_gpu().search(queries, k)
            return scores, rows
        n_products = n_queries * self.n_rows * self._index.d
        n_threads = min(_ALL_THREADS, n_products // SMALL_JOB, self.n_rows // k)
        if allowed is None and n_queries >= BLAS_FROM_QUERIES and n_threads > 1:
            return self._in_ranges(queries, k, n_threads)
        parameters = faiss.SearchParameters()
        with selecting(parameters, allowed):

            def scan(some: Floats) -> tuple[Floats, Ints]:
                # Even empty parameters would keep FAISS from using matrix products.
                how = None if allowed is None else parameters
                return self._index.search(some, k, params=how)  # type: ignore[no-any-return]  # FAISS

            return in_threads(scan, queries, n_products)

    def scores(self, query: Floats) -> Floats:
        """The score of every row for one query [P]: [n_rows]. Costs what a search costs."""
        scores = np.empty(self.n_rows, np.float32)
        query = np.ascontiguousarray(query)
        faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]  # not in FAISS's stubs
            faiss.swig_ptr(scores),
            faiss.swig_ptr(query),
            self._index.get_xb(),
            self._index.d,
            self.n_rows,
        )
        return scores

    def _in_ranges(self, queries: Floats, k: int, n_threads: int) -> tuple[Floats, Ints]:
        """A range of rows for each thread, and the best of what they find.

        All queries at once make larger matrix products than a share of them for each thread.
        """
        width = self._index.d
        rows = faiss.rev_swig_ptr(self._index.get_xb(), self.n_rows * width)
        bounds = np.linspace(0, self.n_rows, n_threads + 1).astype(np.int64)

        def nearest(start: int, stop: int) -> tuple[Floats, Ints]:
            with on_one_core(width):
                some = rows[start * width : stop * width].reshape(-1, width)
                scores, found = faiss.knn(queries, some, k, metric=faiss.METRIC_INNER_PRODUCT)
                return scores, found + start

        with ThreadPoolExecutor(n_threads) as pool:
            parts = list(pool.map(nearest, bounds[:-1].tolist(), bounds[1:].tolist()))
        scores = np.concatenate([scores for scores, _ in parts], axis=1)
        found = np.concatenate([found for _, found in parts], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)

    def _copy_on_gpu(self) -> Any:
        if self._on_gpu is None:
            self._on_gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, self._index)
        return self._on_gpu


def best_rows(scores: Floats, k: int) -> Ints:
    """The rows of the k <= n largest of scores [n], best first, equal ones in order."""
    rows = np.arange(len(scores))
    step = len(scores) // FEW_SCORES
    if step > 1:
        some = scores[::step]
        # The k-th largest is hardly ever below this; parting all scores takes five times as long.
        rank = int(1.3 * k / step) + 10
        if rank < len(some):
            above = np.flatnonzero(scores >= np.partition(some, -rank)[-rank])
            rows = above if len(above) >= k else rows
    among = scores[rows]
    if k < len(rows):
        above = among >= np.partition(among, -k)[-k]
        rows, among = rows[above], among[above]
    return rows[np.argsort(-among, kind="stable")[:k]]


def flat_header(n_rows: int, width: int) -> bytes:
    """The first 45 bytes of FAISS's file of a flat inner-product index; then come the rows."""
    return _FLAT_HEADER.pack(b"IxFI", width, n_rows, 1 << 20, 1 << 20, True, 0, n_rows * width)


def write_flat(path: Path, n_rows: int, width: int, blocks: Iterable[Floats]) -> None:
    """Writes a flat index as FAISS does, from blocks of augmented rows. Raises OSError."""
    with path.open("wb") as file:
        file.write(flat_header(n_rows, width))
        for block in blocks:
            file.write(np.ascontiguousarray(block, "<f4").data)


@contextlib.contextmanager
def selecting(parameters: Any, allowed: NDArray[np.bool_] | None) -> Iterator[None]:
    """Makes FAISS's search parameters let through only the allowed rows, while it lasts."""
    if allowed is None:
        yield
        return
    bits = np.packbits(allowed, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
    parameters.sel = selector
    yield
    parameters.sel = None


@contextlib.contextmanager
def on_one_core(width: int) -> Iterator[None]:
    """Has FAISS search on one core, and multiply matrices for batches of queries of this width."""
    before = faiss.omp_get_max_threads()  # of this thread; a program may have set it
    faiss.omp_set_num_threads(1)
    # It counts queries × width. Of the whole process, but no result depends on it.
    faiss.cvar.distance_compute_blas_threshold = BLAS_FROM_QUERIES * width
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def in_threads(
    scan: Callable[[Floats], tuple[Floats, Ints]], queries: Floats, n_products: int
) -> tuple[Floats, Ints]:
    """`scan` of all queries, shared out among threads where that pays, each of them on one core."""

    def alone(some: Floats) -> tuple[Floats, Ints]:
        with on_one_core(some.shape[1]):
            return scan(some)

    n_threads = min(_ALL_THREADS, len(queries) // BLAS_FROM_QUERIES, n_products // SMALL_JOB)
    if n_threads < 2:
        return alone(queries)
    with ThreadPoolExecutor(n_threads) as pool:
        found = list(pool.map(alone, np.array_split(queries, n_threads)))
    scores = np.concatenate([scores for scores, _ in found])
    rows = np.concatenate([rows for _, rows in found])
    return scores, rows


def _has_gpu() -> bool:
    """Whether this FAISS was built for GPUs (the `gpu` extra) and one is there."""
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
