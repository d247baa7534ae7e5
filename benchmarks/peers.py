"""What else finds nearest neighbours, each at the cheapest of a range of settings that will do.

Every peer is given the augmented rows of `csd_index`, so that its inner product orders by CSD.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import faiss
import numpy as np

Search = Callable[[np.ndarray, int], np.ndarray]  # queries [Q, P], k -> rows [Q, k]


@dataclass(frozen=True)
class Peer:
    """A built index and the settings to try, cheapest first. n_bytes: what it holds in memory."""

    name: str
    build_s: float
    n_bytes: int
    settings: dict[str, Search]


def peers(rows: np.ndarray, names: set[str]) -> Iterator[Peer]:
    """Those that are installed, one at a time, so that each can be dropped before the next."""
    makers = {
        "faiss flat": _faiss_flat,
        "numpy": _numpy,
        "faiss hnsw": _faiss_hnsw,
        "usearch bf16": _usearch,
        "hnswlib": _hnswlib,
        "lancedb ivf_sq": _lancedb,
    }
    for name, make in makers.items():
        if name in names:
            start = time.perf_counter()
            made = make(rows)
            if made is not None:
                yield Peer(name, time.perf_counter() - start, *made)


def _faiss_flat(rows: np.ndarray) -> tuple[int, dict[str, Search]]:
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return rows.nbytes, {"": lambda queries, k: index.search(queries, k)[1]}


def _numpy(rows: np.ndarray) -> tuple[int, dict[str, Search]]:
    def search(queries: np.ndarray, k: int) -> np.ndarray:
        scores = queries @ rows.T
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, 1), 1)
        return np.take_along_axis(best, order, 1)

    return rows.nbytes, {"": search}


def _faiss_hnsw(rows: np.ndarray) -> tuple[int, dict[str, Search]]:
    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(rows)

    def at(ef: int) -> Search:
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch = ef
        return lambda queries, k: index.search(queries, k, params=parameters)[1]

    return rows.nbytes + len(rows) * 66 * 4, {f"ef {ef}": at(ef) for ef in (32, 64, 128, 256, 512)}


def _usearch(rows: np.ndarray) -> tuple[int, dict[str, Search]] | None:
    if find_spec("usearch") is None:
        return None
    index = importlib.import_module("usearch.index").Index(
        ndim=rows.shape[1], metric="ip", dtype="bf16", connectivity=16
    )
    index.add(np.arange(len(rows)), rows, threads=2)

    def at(ef: int) -> Search:
        def search(queries: np.ndarray, k: int) -> np.ndarray:
            index.expansion_search = ef
            return np.asarray(index.search(queries, k, threads=1).keys).reshape(len(queries), -1)

        return search

    return int(index.memory_usage), {f"ef {ef}": at(ef) for ef in (64, 128, 256, 512, 1024)}


def _hnswlib(rows: np.ndarray) -> tuple[int, dict[str, Search]] | None:
    if find_spec("hnswlib") is None:
        return None
    index = importlib.import_module("hnswlib").Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), ef_construction=100, M=16)
    index.add_items(rows, num_threads=2)

    def at(ef: int) -> Search:
        def search(queries: np.ndarray, k: int) -> np.ndarray:
            index.set_ef(ef)
            return np.asarray(index.knn_query(queries, k, num_threads=1)[0])

        return search

    return rows.nbytes + len(rows) * 34 * 4, {
        f"ef {ef}": at(ef) for ef in (32, 64, 128, 256, 512, 1024)
    }


def _lancedb(rows: np.ndarray) -> tuple[int, dict[str, Search]] | None:
    import lancedb
    import pyarrow as pa

    folder = tempfile.TemporaryDirectory()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    table = lancedb.connect(folder.name).create_table(
        "items", pa.table({"n": np.arange(len(rows)), "vector": vectors})
    )
    n_lists = round(1.6 * len(rows) ** 0.5)
    table.create_index(metric="dot", index_type="IVF_HNSW_SQ", num_partitions=max(1, n_lists // 64))

    def at(n_probes: int, refine: int) -> Search:
        def search(queries: np.ndarray, k: int) -> np.ndarray:
            folder.name  # noqa: B018  # kept for as long as this lives
            found = []
            for query in queries:
                one = table.search(query).distance_type("dot").nprobes(n_probes)
                found.append(one.refine_factor(refine).limit(k).select(["n"]).to_arrow()["n"])
            return np.array([column.to_numpy() for column in found])

        return search

    settings: dict[str, Any] = {f"nprobes {n}": at(n, 4) for n in (1, 2, 4, 8, 16, 32)}
    return rows.nbytes // 4, settings
