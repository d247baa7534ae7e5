"""How near does a flat search come to the speed of memory?

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.limit [--items N] [--out FILE]

One thread: bytes of augmented rows that a flat search reads in a second, against the best of two
ways to read as many bytes with NumPy; and what a batch of 64 gains over single queries.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import faiss
import numpy as np

from benchmarks.machine import facts_of_run
from benchmarks.search import once
from prolip_search.indexes.csd_index import FlatIndex, padded_width

K = 34


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    width = padded_width(options.dim)
    rows = rng.standard_normal((options.items, width), np.float32)
    queries = rng.standard_normal((64, width), np.float32)
    index = FlatIndex.build(rows)
    flat = rows.ravel()
    faiss.omp_set_num_threads(1)

    def best(*actions: object) -> float:
        return min(
            statistics.median(once(action) for _ in range(options.runs))  # type: ignore[arg-type]
            for action in actions
        )

    one = queries[:1]
    search_s = best(lambda: index.search(one, K, None))
    read_s = best(lambda: flat.max(), lambda: np.dot(flat, flat))
    batch_s = best(lambda: index.search(queries, K, None))
    result = facts_of_run() | {
        "items": options.items,
        "dim": options.dim,
        "flat search, GB/s": rows.nbytes / search_s / 1e9,
        "reading, GB/s": rows.nbytes / read_s / 1e9,
        "search / reading": read_s / search_s,
        "batch of 64, throughput / single": 64 * search_s / batch_s,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
