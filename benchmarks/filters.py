"""What does a filtered search cost, and does it find what there is?

    python -m benchmarks.filters [--size 100000] [--dim 512] [--json]

For filters that let through 0.1 %, 1 %, 10 % and 50 % of the items: the time of a query and of a
batch of 64 as shares of the unfiltered ones, recall@10 against brute force over what the filter
lets through, and, apart from these, the time to resolve the SQL. One run, one warm-up, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa

from benchmarks.search import BATCH, K, item_rows, median_s
from benchmarks.vectors import images, texts
from prolip_search.distances import MatchLogit
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.manifest import EncoderRecord
from prolip_search.indexes.store import Store

PER_MILLE = (1, 10, 100, 500)
AT_ONCE = 16_384  # rows made and appended at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.size, options.dim, options.runs)
    if options.json:
        machine = {
            "machine": platform.platform(),
            "n_cpus": os.cpu_count(),
            "python": platform.python_version(),
            "faiss": faiss.__version__,
        }
        print(json.dumps({**machine, "n_items": options.size, "results": results}, indent=2))
        return
    for name in results[0]:
        print(f"{name:<34}", *(f"{result[name]:>10.3f}" for result in results))


def measure(n: int, dim: int, n_runs: int) -> list[dict[str, float]]:
    """The figures of each filter; the first column is the search without one."""
    stored, queries = images(n, dim, seed=1), texts(BATCH, dim, seed=2)
    number = np.random.default_rng(3).permutation(n)  # what the filters ask about
    csd = -2 * (queries.mean @ stored.mean.T) + stored.uncertainty  # but for a constant, [Q, N]
    with tempfile.TemporaryDirectory() as folder:
        record = EncoderRecord(
            name="benchmark", fingerprint="0" * 64, dim=dim, match_logit=MatchLogit(10, -5)
        )
        store = Store.create(Path(folder) / "index", encoder=record)
        for at in range(0, n, AT_ONCE):
            some = slice(at, at + AT_ONCE)
            rows = item_rows(stored[some], f"item-{at}")
            store.append(rows.append_column("width", pa.array(number[some], pa.int32())))
        store.refresh_index()
        store = Store.open(store.folder)
        at = {row: place for place, row in enumerate(store.table(["row_id"])["row_id"].to_pylist())}
        order = store.table(["width"])["width"].to_numpy()
        place_of = np.argsort(number)[order]  # which stored Gaussian each row is
        results: list[dict[str, float]] = []
        for per_mille in (1000, *PER_MILLE):
            below = n * per_mille // 1000
            chosen = None if per_mille == 1000 else Filter(where=f"width < {below}")
            resolve_s = 0.0
            if chosen is not None:

                def resolve(chosen: Filter = chosen) -> int:
                    store._view().masks.clear()
                    return store.count_where(chosen)

                resolve_s = median_s(resolve, n_runs)
            one = median_s(lambda chosen=chosen: store.search(queries[0], K, where=chosen), n_runs)
            many = median_s(lambda chosen=chosen: store.search(queries, K, where=chosen), n_runs)
            found = store.search(queries, K, where=chosen).row_id
            allowed = np.flatnonzero(number < below)
            recall = []
            for query in range(BATCH):
                best = allowed[np.argsort(csd[query, allowed])[:K]]
                got = {int(place_of[at[row]]) for row in found[query].tolist() if row >= 0}
                recall.append(len(got & set(best.tolist())) / len(best))
            times = {"one query": one, f"batch of {BATCH}": many}
            result = {"let through, %": per_mille / 10, "recall@10": statistics.mean(recall)}
            for name, seconds in times.items():
                unfiltered_s = results[0][f"{name}, ms"] / 1e3 if results else seconds
                result[f"{name}, ms"] = 1e3 * seconds
                result[f"{name}, share of unfiltered"] = seconds / unfiltered_s
            results.append(result | {"to resolve the SQL, ms": 1e3 * resolve_s})
    return results


if __name__ == "__main__":
    main()
