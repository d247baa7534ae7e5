"""How near does a flat search come to the speed of memory, and what does padding cost?

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.limit [--items N] [--out FILE]

One thread: bytes of augmented rows that a flat search reads in a second, against the fastest of
three ways to read the same bytes once with NumPy (maximum, sum of integers, exclusive or), all far
larger than any cache; what a batch of 64 gains over single queries, on all threads; and 8-bit codes
of D + 1 coordinates, padded as the inverted lists pad them, against codes of D. Everything in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import faiss
import numpy as np

from benchmarks.machine import facts_of_run
from benchmarks.search import cpu, once
from prolip_search.indexes import csd_index
from prolip_search.indexes.blocks import MappedFile
from prolip_search.indexes.csd_index import FlatIndex, padded_width, write_flat
from prolip_search.indexes.ivf_index import code_width

K = 34
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="for the batch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    width = padded_width(options.dim)
    rows = rng.standard_normal((options.items, width), np.float32)
    queries = rng.standard_normal((64, width), np.float32)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "csd-1.faiss"
    write_flat(path, len(rows), width, [rows])
    file = MappedFile(path, path.stat().st_size)
    index = FlatIndex.read(file, n_rows=len(rows), width=width)  # mapped, as a store searches it
    integers = rows.reshape(-1).view(np.int64)
    faiss.omp_set_num_threads(1)
    csd_index._ALL_THREADS = options.threads
    codes = {}
    for name, columns in (("D", options.dim), ("padded", code_width(options.dim))):
        # The codec that the inverted lists are scanned with.
        codes[name] = faiss.IndexScalarQuantizer(
            columns, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
        )
        some = np.zeros((min(50_000, options.items), columns), np.float32)
        some[:, : options.dim] = rows[: len(some), : options.dim]
        codes[name].train(some)
        codes[name].add(some)

    def coded(name: str) -> object:
        asked = np.ascontiguousarray(rows[:1, :1].repeat(codes[name].d, 1))
        return codes[name].search(asked, K)

    actions = {
        "flat": lambda: index.search(queries[:1], K, None),
        "max": lambda: rows.max(),
        "sum": lambda: integers.sum(),
        "xor": lambda: np.bitwise_xor.reduce(integers),
        "batch": lambda: index.search(queries, K, None),
        "D": lambda: coded("D"),
        "padded": lambda: coded("padded"),
    }
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(options.runs + 1):
        for name, action in actions.items():
            # One thread by the processor's clock, so that other programs count less.
            clock = once if name == "batch" and options.threads > 1 else cpu
            taken[name].append(clock(action))
    best = {name: min(times[1:]) for name, times in taken.items()}
    middle = {name: statistics.median(times[1:]) for name, times in taken.items()}
    read_s = min(best["max"], best["sum"], best["xor"])
    result = facts_of_run() | {
        "items": options.items,
        "dim": options.dim,
        "seed": SEED,
        "threads of the batch": options.threads,
        "bytes": rows.nbytes,
        "best of runs": options.runs,
        "flat search, GB/s": rows.nbytes / best["flat"] / 1e9,
        "reading, GB/s": rows.nbytes / read_s / 1e9,
        "search / reading": read_s / best["flat"],
        "batch of 64, throughput / single": 64 * best["flat"] / best["batch"],
        "8-bit codes, padded / D": best["padded"] / best["D"],
        "medians_ms": {name: 1e3 * seconds for name, seconds in middle.items()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
