"""What does a search cost, beside what FAISS needs for it and beside what others need?

    python -m benchmarks.search [--sizes …] [--spreads …] [--peers …] [--kinds …] [--out FILE]

All in one run on the same vectors, text-like queries, FAISS and every peer on one thread for single
queries, which are timed by the processor's clock; batches are by the wall's. "Raw FAISS" is FAISS's
own search of the same index; "its index alone" is ours without the exact re-scoring. recall@10 is
of the CSD ranking by brute force. One warm-up, then medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from benchmarks.machine import facts_of_run
from benchmarks.peers import peers
from benchmarks.vectors import image_blocks, texts
from prolip_search.distances import MatchLogit
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.csd_index import (
    FlatIndex,
    augmented_queries,
    augmented_rows,
    padded_width,
)
from prolip_search.indexes.ivf_index import IvfIndex
from prolip_search.indexes.manifest import EncoderRecord, IndexSettings
from prolip_search.indexes.store import Store

K, BATCH, N_QUERIES = 10, 64, 256
SEEDS = {"items": 1, "queries": 2}
DEFAULT_PEERS = ["faiss flat", "numpy", "faiss hnsw", "usearch bf16", "hnswlib", "lancedb ivf_sq"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--spreads", nargs="+", default=["real", "wide"], choices=["real", "wide"])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--peers", nargs="*", default=DEFAULT_PEERS, choices=DEFAULT_PEERS)
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf 0.95", "ivf 0.99"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = facts_of_run() | {"dim": options.dim, "seeds": SEEDS, "runs": []}
    for n in options.sizes:
        for spread in options.spreads:
            run = measure(n, options.dim, spread, options.kinds, set(options.peers))
            result["runs"].append(run)
            print_run(run)
            if options.out:
                options.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(n: int, dim: int, spread: str, kinds: list[str], names: set[str]) -> dict[str, Any]:
    """Every figure for one collection."""
    wide = spread == "wide"
    queries = texts(N_QUERIES, dim, SEEDS["queries"], wide=wide)
    asked = augmented_queries(queries.mean, with_uncertainty=True)
    truth = nearest(n, dim, wide, asked)
    methods: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        methods += [
            ours(Path(folder) / kind, n, dim, wide, kind, queries, asked, truth) for kind in kinds
        ]
    if names:
        rows = np.empty((n, padded_width(dim)), np.float32)
        at = 0
        for block in image_blocks(n, dim, SEEDS["items"], wide=wide):
            rows[at : at + len(block)] = augmented_rows(block.mean, block.uncertainty)
            at += len(block)
        for peer in peers(rows, names):
            for setting, search in peer.settings.items():
                figures = timed(search, asked, truth)
                methods.append(
                    {"method": peer.name, "setting": setting, "build_s": peer.build_s,
                     "memory_bytes": peer.n_bytes, **figures}
                )  # fmt: skip
                if figures["recall"] >= 0.995:
                    break
    return {"n": n, "spread": spread, "methods": methods, "ratios": ratios(methods)}


def nearest(n: int, dim: int, wide: bool, asked: np.ndarray) -> np.ndarray:
    """The rows of the K best of each query by brute force."""
    best = np.full((len(asked), K), -np.inf, np.float32)
    rows = np.zeros((len(asked), K), np.int64)
    start = 0
    for block in image_blocks(n, dim, SEEDS["items"], wide=wide):
        scores = np.hstack([best, asked @ augmented_rows(block.mean, block.uncertainty).T])
        numbers = np.broadcast_to(np.arange(start, start + len(block)), (len(asked), len(block)))
        numbers = np.hstack([rows, numbers])
        top = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        best, rows = np.take_along_axis(scores, top, 1), np.take_along_axis(numbers, top, 1)
        start += len(block)
    return rows


def ours(
    folder: Path,
    n: int,
    dim: int,
    wide: bool,
    kind: str,
    queries: Gaussians,
    asked: np.ndarray,
    truth: np.ndarray,
) -> dict[str, Any]:
    """The store with one kind of index, and FAISS on that very index."""
    name, _, recall = kind.partition(" ")
    settings = IndexSettings(kind=name, recall=float(recall or 0.95))  # type: ignore[arg-type]
    store = new_store(folder, dim, settings)
    for number, block in enumerate(image_blocks(n, dim, SEEDS["items"], wide=wide)):
        store.append(item_rows(block, f"item-{number:03}"))
    build_s = once(store.refresh_index)
    store = Store.open(store.folder)
    open_s = once(lambda: store.search(queries[0], K))
    singles = [queries[at] for at in range(len(queries))]
    found = store.search(queries, K).row_id
    index: Any = store._view().parts[0].index
    margin = 24 if isinstance(index, FlatIndex) else index.margin
    as_faiss_does = of_faiss(index)
    index_file = next(p for p in store.folder.glob("csd*") if p.suffix in (".faiss", ".ivf"))
    one = [asked[at : at + 1] for at in range(len(asked))]
    # Alternating, so that a busy machine is busy for all, after a round in which all is read.
    faiss.omp_set_num_threads(1)  # its other threads would spin while something else is timed
    mine, raw, stock = [], [], []
    for turn in range(2):
        for at in range(len(singles)):
            times = (
                cpu(lambda at=at: store.search(singles[at], K)),
                cpu(lambda at=at: index.search(one[at], K + margin, None)),
                cpu(lambda at=at: as_faiss_does(one[at], K + margin)),
            )
            if turn:
                for seconds, taken in zip(times, (mine, raw, stock), strict=True):
                    taken.append(seconds)
    batch = queries[np.arange(BATCH)]
    mine_batch, alone_batch, raw_batch = [], [], []
    for _ in range(7):
        mine_batch.append(once(lambda: store.search(batch, K)))
        alone_batch.append(once(lambda: index.search(asked[:BATCH], K + margin, None)))
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        raw_batch.append(once(lambda: as_faiss_does(asked[:BATCH], K + margin)))
        faiss.omp_set_num_threads(1)
    return {
        "method": f"ours {kind}",
        "setting": f"n_probes {index.n_probes} of {index.n_lists}"
        if isinstance(index, IvfIndex)
        else "",
        "recall": recall_of(found, truth),
        "measured_recall": store.index_facts.recall,
        "p50_ms": 1e3 * statistics.median(mine),
        "p95_ms": 1e3 * float(np.percentile(mine, 95)),
        "batch_qps": BATCH / statistics.median(mine_batch[1:]),
        "raw_faiss_p50_ms": 1e3 * statistics.median(stock),
        "index_alone_p50_ms": 1e3 * statistics.median(raw),
        "raw_faiss_batch_qps": BATCH / statistics.median(raw_batch[1:]),
        "index_alone_batch_qps": BATCH / statistics.median(alone_batch[1:]),
        "build_s": build_s,
        "memory_bytes": index_file.stat().st_size,
        "derived_bytes": sum(path.stat().st_size for path in store.folder.glob("csd*")),
        "open_and_first_query_ms": 1e3 * open_s,
    }


def of_faiss(index: Any) -> Callable[[np.ndarray, int], np.ndarray]:
    """The same search as FAISS itself does it: for lists, its 8-bit index over the very codes."""
    if isinstance(index, FlatIndex):
        return lambda queries, k: index._index.search(queries, k)[1]
    width = index._width
    lists = faiss.IndexIVFScalarQuantizer(
        index._index.quantizer,
        width,
        index.n_lists,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        True,
    )
    ranges = index._steps * 255
    faiss.copy_array_to_vector(np.hstack([index._middle - ranges / 2, ranges]), lists.sq.trained)
    lists.is_trained, lists.ntotal, lists.nprobe = True, index.n_rows, index.n_probes
    lists.replace_invlists(index._lists, False)

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        padding = ((0, 0), (0, width - queries.shape[1]))
        return lists.search(np.pad(queries, padding), k)[1]

    return search


def timed(
    search: Callable[..., np.ndarray], asked: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Recall and times of one setting of a peer."""
    faiss.omp_set_num_threads(1)
    found = np.vstack([search(asked[at : at + 1], K) for at in range(N_QUERIES)])
    n_timed = 128
    single = [cpu(lambda at=at: search(asked[at : at + 1], K)) for at in range(n_timed)]
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    batch = [once(lambda: search(asked[:BATCH], K)) for _ in range(4)]
    return {
        "recall": recall_of(found, truth),
        "p50_ms": 1e3 * statistics.median(single[8:]),
        "p95_ms": 1e3 * float(np.percentile(single[8:], 95)),
        "batch_qps": BATCH / statistics.median(batch[1:]),
    }


def ratios(methods: list[dict[str, Any]]) -> dict[str, float | str | None]:
    """Ours against raw FAISS, and against the best peer that keeps up."""
    found: dict[str, float | str | None] = {}
    for mine in methods:
        if not mine["method"].startswith("ours"):
            continue
        name = mine["method"].removeprefix("ours ")
        found[f"{name}: single / raw FAISS"] = mine["p50_ms"] / mine["raw_faiss_p50_ms"]
        found[f"{name}: single / its index alone"] = mine["p50_ms"] / mine["index_alone_p50_ms"]
        found[f"{name}: batch / raw FAISS"] = mine["raw_faiss_batch_qps"] / mine["batch_qps"]
        found[f"{name}: batch / its index alone"] = (
            mine["index_alone_batch_qps"] / mine["batch_qps"]
        )
        if name == "flat":
            found["flat: batch-64 throughput / single"] = mine["batch_qps"] * mine["p50_ms"] / 1e3
            continue
        target = float(name.split()[1])
        able = [
            other
            for other in methods
            if not other["method"].startswith("ours") and other["recall"] >= target
        ]
        frugal = [other for other in able if other["memory_bytes"] <= mine["memory_bytes"]]
        for label, others in (("no more memory", frugal), ("any memory", able)):
            best = min(others, key=lambda other: other["p50_ms"], default=None)
            key = f"{name}: latency / best peer, {label}"
            found[key] = None if best is None else mine["p50_ms"] / best["p50_ms"]
            found[f"{key}, which is"] = (
                None if best is None else f"{best['method']} {best['setting']}"
            )
    return found


def recall_of(found: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(found, truth, strict=True)
    return statistics.mean(len(np.intersect1d(one, other)) / K for one, other in pairs)


def new_store(folder: Path, dim: int, settings: IndexSettings) -> Store:
    record = EncoderRecord(
        name="benchmark", fingerprint="0" * 64, dim=dim, match_logit=MatchLogit(10, -5)
    )
    return Store.create(folder / ".prolip-search", encoder=record, index=settings)


def item_rows(gaussians: Gaussians, name: str) -> pa.Table:
    n, dim = gaussians.mean.shape

    def vectors(array: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), dim)

    return pa.table(
        {
            "id": [f"{name}-{at:08}" for at in range(n)],
            "kind": ["image"] * n,
            "path": [f"photos/{at % 97}/{name}-{at}.jpg" for at in range(n)],
            "mean": vectors(gaussians.mean),
            "log_variance": vectors(gaussians.log_variance),
        }
    )


def once(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def cpu(action: Callable[[], object]) -> float:
    """The processor time that it takes, of all threads: what a busy machine changes least."""
    start = time.process_time()
    action()
    return time.process_time() - start


def print_run(run: dict[str, Any]) -> None:
    print(f"\nN = {run['n']:,}, {run['spread']} uncertainties")
    print(f"{'':<34}{'recall':>8}{'p50 ms':>9}{'p95 ms':>9}{'QPS, 64':>9}{'build s':>9}{'MB':>8}")
    for one in run["methods"]:
        name = f"{one['method']} {one['setting']}"
        print(
            f"{name:<34}{one['recall']:8.4f}{one['p50_ms']:9.3f}{one['p95_ms']:9.3f}"
            f"{one['batch_qps']:9.0f}{one['build_s']:9.1f}{one['memory_bytes'] / 1e6:8.0f}"
        )
    for name, value in run["ratios"].items():
        print(f"{name:<58} {value:.2f}" if isinstance(value, float) else f"{name:<58} {value}")


if __name__ == "__main__":
    main()
