"""What does inclusion cost, measured in exponentials?

    OMP_NUM_THREADS=1 python -m benchmarks.inclusion [--out FILE]

H of one query with 1,000 items against `np.exp` of their log-variances, in turn and in CPU time:
for log-variances as an encoder gives them, and over the whole range that is admitted. Then what a
search of the engine spends on H of the ten results that it shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import stream
from benchmarks.machine import facts_of_run
from benchmarks.search import new_store
from benchmarks.vectors import images, texts
from prolip_search.distances import inclusion
from prolip_search.engine import SearchEngine
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.manifest import IndexSettings

DIM = 768
N_ITEMS = 1000
N_STORED = 10_000
K = 10
SEED = 1
LIMIT = 12.0  # exponentials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=101)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = facts_of_run() | {"dim": DIM, "items": N_ITEMS, "seed": SEED, "limit": LIMIT}
    items, query = images(N_ITEMS, DIM, SEED), texts(1, DIM, SEED)
    rng = np.random.default_rng(SEED)
    extreme = Gaussians(items.mean, rng.uniform(-60, 60, items.mean.shape).astype(np.float32))
    result["realistic"] = in_exponentials(items, query, options.runs)
    result["log-variances of -60 to 60"] = in_exponentials(extreme, query, options.runs)
    result["of a search"] = of_a_search(options.runs)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def in_exponentials(items: Gaussians, query: Gaussians, n_runs: int) -> dict[str, float]:
    """Medians of runs in turn, so that what else the machine does falls on both."""
    exponential, forward, backward = [], [], []
    for _ in range(n_runs):
        exponential.append(cpu_s(lambda: np.exp(items.log_variance)))
        forward.append(cpu_s(lambda: inclusion(items, query)))
        backward.append(cpu_s(lambda: inclusion(query, items)))
    exp_s = statistics.median(exponential)
    return {
        "exp_ms": 1e3 * exp_s,
        "items in query, ms": 1e3 * statistics.median(forward),
        "items in query / exp": statistics.median(forward) / exp_s,
        "query in items / exp": statistics.median(backward) / exp_s,
    }


def of_a_search(n_runs: int) -> dict[str, Any]:
    """A search for K of N_STORED items by a ready Gaussian, and H of its results in it."""
    with tempfile.TemporaryDirectory() as folder:
        engine = SearchEngine(
            new_store(Path(folder), DIM, IndexSettings()), encoder=None, runtime="auto"
        )
        engine.add_gaussians(stream(N_STORED, DIM))
        query = texts(1, DIM, SEED)
        found = engine.search_many(query, K).row_id[0]
        shown = engine.store.gaussians(found)
        search, read, compute = [], [], []
        for _ in range(n_runs):
            search.append(cpu_s(lambda: engine.search(query, K)))
            read.append(cpu_s(lambda: engine.store.gaussians(found)))
            compute.append(cpu_s(lambda: inclusion(shown, query)))
    search_s = statistics.median(search)
    return {
        "items": N_STORED,
        "k": K,
        "search_ms": 1e3 * search_s,
        "reading the Gaussians shown, ms": 1e3 * statistics.median(read),
        "inclusion, ms": 1e3 * statistics.median(compute),
        "share of the search": (statistics.median(read) + statistics.median(compute)) / search_s,
    }


def cpu_s(action: Callable[[], object]) -> float:
    """CPU time of this thread."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
