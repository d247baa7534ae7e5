"""What does a filtered search cost, and does it find what there is?

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.filters [--size N] [--kinds flat ivf] [--out FILE]

For filters that let through 0.1 %, 1 %, 10 % and 50 % of the items: the time of a query and of a
batch of 64 as shares of the unfiltered ones, recall@10 against brute force over what the filter
lets through, and, apart from these, the time to resolve the SQL and of the first two searches under
a filter, in which an index may prepare for it. Filtered and unfiltered ones
alternate; medians of processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import facts_of_run
from benchmarks.search import BATCH, K, cpu, item_rows, new_store, once
from benchmarks.vectors import image_blocks, texts
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.store import Store

PER_MILLE = (1, 10, 100, 500)
SEEDS = {"items": 1, "queries": 2, "filters": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf"], choices=["flat", "ivf"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = facts_of_run() | {"n": options.size, "dim": options.dim, "seeds": SEEDS, "kinds": {}}
    for kind in options.kinds:
        found = measure(options.size, options.dim, options.runs, kind)
        result["kinds"][kind] = found
        print(f"\n{kind}")
        for name in found[0]:
            print(f"{name:<42}", *(f"{row[name]:>10.3f}" for row in found))
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(n: int, dim: int, n_runs: int, kind: str) -> list[dict[str, float]]:
    """The figures of each filter."""
    queries = texts(max(BATCH, n_runs), dim, SEEDS["queries"])
    number = np.random.default_rng(SEEDS["filters"]).permutation(n)  # what filters ask about
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder), dim, IndexSettings(kind=kind))  # type: ignore[arg-type]
        done, csd = 0, []
        for at, block in enumerate(image_blocks(n, dim, SEEDS["items"])):
            width = pa.array(number[done : done + len(block)], pa.int32())
            store.append(item_rows(block, f"item-{at:03}").append_column("width", width))
            # But for a constant, [Q, N].
            csd.append(-2 * (queries.mean[:BATCH] @ block.mean.T) + block.uncertainty)
            done += len(block)
        store.refresh_index()
        store = Store.open(store.folder)
        rows = store.table(["row_id", "width"])
        row_of = np.empty(n, np.int64)  # by number
        row_of[rows["width"].to_numpy()] = rows["row_id"].to_numpy()
        return [
            under_filter(store, queries, n_runs, per_mille, number, row_of, np.hstack(csd))
            for per_mille in PER_MILLE
        ]


def under_filter(
    store: Store,
    queries: Gaussians,
    n_runs: int,
    per_mille: int,
    number: np.ndarray,
    row_of: np.ndarray,
    csd: np.ndarray,
) -> dict[str, float]:
    """The figures of one filter."""
    n, below = len(number), len(number) * per_mille // 1000
    chosen = Filter(where=f"width < {below}")

    def resolve() -> int:
        store._view().masks.clear()
        return store.count_where(chosen)

    resolve_s = statistics.median(once(resolve) for _ in range(5))
    first, second = (once(lambda: store.search(queries[0], K, where=chosen)) for _ in range(2))
    batch = queries[np.arange(BATCH)]
    found = store.search(batch, K, where=chosen).row_id
    allowed = np.flatnonzero(number < below)
    recall = []
    for query in range(BATCH):
        best = row_of[number[allowed[np.argsort(csd[query, allowed])[:K]]]]
        recall.append(len(np.intersect1d(found[query], best)) / min(K, len(allowed)))
    one = alternating(
        n_runs,
        lambda at: store.search(queries[at], K, where=chosen),
        lambda at: store.search(queries[at], K),
    )
    many = alternating(
        7, lambda at: store.search(batch, K, where=chosen), lambda at: store.search(batch, K)
    )
    result: dict[str, Any] = {
        "let through, %": per_mille / 10,
        "recall@10": statistics.mean(recall),
        "results, of those there are": float((found >= 0).sum() / (BATCH * min(K, below, n))),
    }
    for name, (filtered_s, unfiltered_s) in {"one query": one, f"batch of {BATCH}": many}.items():
        result[f"{name}, ms"] = 1e3 * filtered_s
        result[f"{name}, unfiltered, ms"] = 1e3 * unfiltered_s
        result[f"{name}, share of unfiltered"] = filtered_s / unfiltered_s
    return result | {
        "to resolve the SQL, ms": 1e3 * resolve_s,
        "first search, ms": 1e3 * first,
        "second search, ms": 1e3 * second,
    }


def alternating(n_runs: int, *actions: Callable[[int], object]) -> tuple[float, ...]:
    """The median time of each, all having met the same machine."""
    taken: list[list[float]] = [[] for _ in actions]
    for at in range(n_runs):
        for action, times in zip(actions, taken, strict=True):
            times.append(cpu(lambda action=action, at=at: action(at)))
    return tuple(statistics.median(times[1:]) for times in taken)


if __name__ == "__main__":
    main()
