"""What does a search cost over what FAISS needs for it, and what do opening and growing cost?

    python -m benchmarks.search [--sizes 3000 50000] [--dim 512] [--json]

All in one run on the same vectors: the store (exact ranking, ties and all), FAISS's own flat index
over plain padded vectors, and a NumPy matrix product. One warm-up, then medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from benchmarks.vectors import images, texts
from prolip_search.distances import MatchLogit
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.csd_index import augmented_queries, augmented_rows
from prolip_search.indexes.manifest import EncoderRecord
from prolip_search.indexes.store import Store

K = 10
BATCH = 64
APPENDED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[3000, 50_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = [measure(n, options.dim, options.runs) for n in options.sizes]
    if options.json:
        machine = {
            "machine": platform.platform(),
            "n_cpus": os.cpu_count(),
            "python": platform.python_version(),
            "faiss": faiss.__version__,
        }
        print(json.dumps({**machine, "results": results}, indent=2))
        return
    for name in results[0]:
        print(f"{name:<38}", *(f"{result[name]:>12.2f}" for result in results))


def measure(n: int, dim: int, n_runs: int) -> dict[str, float]:
    """Every figure for a collection of n items."""
    stored, queries = images(n, dim, seed=1), texts(BATCH, dim, seed=2)
    rows = augmented_rows(stored.mean, stored.uncertainty)
    asked = augmented_queries(queries.mean, with_uncertainty=True)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    with tempfile.TemporaryDirectory() as folder:
        record = EncoderRecord(
            name="benchmark", fingerprint="0" * 64, dim=dim, match_logit=MatchLogit(10, -5)
        )
        store = Store.create(Path(folder) / "index", encoder=record)
        append_s = once(lambda: store.append(item_rows(stored, "item")))
        refresh_s = once(store.refresh_index)
        size = sum(path.stat().st_size for path in store.folder.glob("csd*"))
        opened = Store.open(store.folder)
        open_s = once(lambda: opened.search(queries[0], K))
        truth = [set(np.argsort(-row)[:K].tolist()) for row in asked @ rows.T]
        found = opened.search(queries, K).row_id
        recall = [len(truth[at] & set(found[at].tolist())) / K for at in range(BATCH)]
        one = asked[:1]
        ours = median_s(lambda: opened.search(queries[0], K), n_runs)
        faiss.omp_set_num_threads(1)
        raw = median_s(lambda: flat.search(one, K), n_runs)
        numpy_one = median_s(lambda: np.argpartition(-(one @ rows.T)[0], K)[:K], n_runs)
        ours_batch = median_s(lambda: opened.search(queries, K), n_runs)
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        raw_batch = median_s(lambda: flat.search(asked, K), n_runs)
        fetch = median_s(lambda: opened.rows(found[0], ["id", "path", "metadata"]), n_runs)
        more = item_rows(images(APPENDED, dim, seed=3), "more")
        grow_s = once(lambda: store.append(more))
        behind_s = once(lambda: store.search(queries[0], K))
    return {
        "items": n,
        "recall@10 against brute force": statistics.mean(recall),
        "one query, ms": 1e3 * ours,
        "  FAISS flat, ms": 1e3 * raw,
        "  ratio to FAISS": ours / raw,
        "  NumPy product, ms": 1e3 * numpy_one,
        f"batch of {BATCH}, ms": 1e3 * ours_batch,
        "  FAISS flat batch, ms": 1e3 * raw_batch,
        "  batch ratio to FAISS": ours_batch / raw_batch,
        "open and first query, ms": 1e3 * open_s,
        "10 rows fetched, ms": 1e3 * fetch,
        "append all, ms": 1e3 * append_s,
        "refresh, ms": 1e3 * refresh_s,
        f"append {APPENDED}, ms": 1e3 * grow_s,
        "next query (rows not folded in), ms": 1e3 * behind_s,
        "derived files, MiB": size / 2**20,
    }


def item_rows(gaussians: Gaussians, name: str) -> pa.Table:
    n, dim = gaussians.mean.shape

    def vectors(array: np.ndarray[Any, Any]) -> pa.Array:
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


def median_s(action: Callable[[], object], n_runs: int) -> float:
    once(action)
    return statistics.median(once(action) for _ in range(n_runs))


if __name__ == "__main__":
    main()
