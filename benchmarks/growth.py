"""What does an index cost as it grows: to append to, to delete from, to open, to search?

    python -m benchmarks.growth [--sizes 10000 100000 1000000] [--dim 512] [--out FILE]

For each size: ready Gaussians are added as a stream from a file (most memory of its own that the
process has), a new process opens the index and asks one query, 1,000 items are added and 1,000
deleted, with the refresh that an `index` run ends with, and the next query is asked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import facts_of_run
from benchmarks.search import K, cpu, item_rows, nearest, new_store, once, recall_of
from benchmarks.vectors import image_blocks, images, texts
from prolip_search.engine import SearchEngine
from prolip_search.indexes.csd_index import augmented_queries
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.store import Store

N_CHANGED = 1000
SEEDS = {"items": 1, "queries": 2, "new items": 3, "cold query": 5}
READY = """
import sys
import pyarrow as pa
from benchmarks.growth import stream
batches = stream(int(sys.argv[2]), int(sys.argv[3]))
first = next(batches)
with pa.ipc.new_file(sys.argv[1], first.schema) as file:
    file.write_batch(first)
    for batch in batches:
        file.write_batch(batch)
"""
COLD = """
import sys, time
from benchmarks.vectors import texts
from prolip_search.indexes.store import Store
query = texts(1, int(sys.argv[2]), 5)

start, cpu = time.perf_counter(), time.process_time()
store = Store.open(sys.argv[1])
hits = store.search(query, 10)
store.rows(hits.row_id[0], ["id", "path", "metadata"])
print(1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - cpu))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--optimize", action="store_true", help="time `optimize` as well")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = facts_of_run() | {"dim": options.dim, "seeds": SEEDS, "sizes": []}
    for n in options.sizes:
        result["sizes"].append(measure(n, options.dim, options.optimize))
        print(json.dumps(result["sizes"][-1], indent=1), flush=True)
        first, last = result["sizes"][0], result["sizes"][-1]
        result["largest / smallest"] = {
            name: last[name] / first[name] for name in first if name.endswith("_ms")
        }
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["largest / smallest"], indent=1))


def measure(n: int, dim: int, optimize: bool) -> dict[str, Any]:
    """Every figure for one size."""
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder), dim, IndexSettings())
        engine = SearchEngine(store, encoder=None, runtime="auto")
        ready = Path(folder) / "ready.arrow"
        make_ready(ready, n, dim)
        at_rest = own_gib()
        with PeakMemory() as peak:
            build_s = once(lambda: engine.add_gaussians(read_ready(ready)))
        ready.unlink()
        facts = engine.status().index
        sizes = {path.suffix: path.stat().st_size for path in store.folder.glob("csd*")}
        queries = texts(256, dim, 2)
        asked = augmented_queries(queries.mean, with_uncertainty=True)
        opened = Store.open(store.folder)
        recall = recall_of(opened.search(queries, K).row_id, nearest(n, dim, False, asked))
        alone = [cpu(lambda at=at: opened.search(queries[at], K)) for at in range(256)]
        cold = [cold_ms(store.folder, dim) for _ in range(9)]
        new = images(3 * N_CHANGED, dim, 3)
        append_s, next_s, delete_s = [], [], []
        for turn in range(3):
            block = new[np.arange(turn * N_CHANGED, (turn + 1) * N_CHANGED)]
            rows = item_rows(block, f"new-{turn}")

            def append(rows: pa.Table = rows) -> None:
                store.append(rows)
                store.refresh_index()

            def delete(rows: pa.Table = rows) -> None:
                store.delete(rows["id"].to_pylist())
                store.refresh_index()

            append_s.append(once(append))
            next_s.append(once(lambda: Store.open(store.folder).search(queries[0], K)))
            newest = Store.open(store.folder).search(block[0], 1, rank_by="cosine").row_id[0]
            assert store.rows(newest, ["id"])["id"][0].as_py() == rows["id"][0].as_py()
            delete_s.append(once(delete))
        return {
            "n": n,
            "kind": facts.kind,
            "measured_recall": facts.recall,
            "recall": recall,
            "build_s": build_s,
            "own_memory_before_gib": at_rest,
            "peak_own_memory_gib": peak.gib,
            "bytes": sizes,
            "query_p50_cpu_ms": 1e3 * statistics.median(alone),
            "cold_open_and_first_query_ms": statistics.median(wall for wall, _ in cold),
            "cold_open_and_first_query_cpu_ms": statistics.median(cpu for _, cpu in cold),
            f"append_{N_CHANGED}_ms": 1e3 * statistics.median(append_s),
            "next_open_and_query_ms": 1e3 * statistics.median(next_s),
            f"delete_{N_CHANGED}_ms": 1e3 * statistics.median(delete_s),
            "optimize_s": once(store.optimize) if optimize else None,
        }


class PeakMemory:
    """The most memory of its own that this process has while it lasts; mapped files do not count,
    the system takes their pages back when it likes.
    """

    def __enter__(self) -> PeakMemory:
        self.gib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.gib = max(self.gib, own_gib())


def own_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(line for line in lines if line.startswith("RssAnon"))
    return int(own.split()[1]) / 2**20


def make_ready(path: Path, n: int, dim: int) -> None:
    """The Gaussians as an Arrow file, made in a process of its own: drawing them needs memory."""
    subprocess.run([sys.executable, "-c", READY, str(path), str(n), str(dim)], check=True)


def read_ready(path: Path) -> Iterator[pa.RecordBatch]:
    """Its batches, memory-mapped."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    return (file.get_batch(number) for number in range(file.num_record_batches))


def stream(n: int, dim: int) -> Iterator[pa.RecordBatch]:
    for number, block in enumerate(image_blocks(n, dim, 1)):
        yield from item_rows(block, f"item-{number:03}").to_batches(max_chunksize=16_384)


def cold_ms(folder: Path, dim: int) -> tuple[float, float]:
    """Wall and CPU time to open and ask once, in a new process whose libraries are loaded."""
    command = [sys.executable, "-c", COLD, str(folder), str(dim)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


if __name__ == "__main__":
    main()
