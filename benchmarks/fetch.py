"""What does it cost to read the rows of results, before and after rows were deleted?

    OMP_NUM_THREADS=1 python -m benchmarks.fetch [--items 50000] [--dim 768] [--out FILE]

The same results are read from an index in each of its states: its derived files up to date; behind
a delete of 3 % of the items, or behind an append as well; brought up to date after it; gone, so
that the table itself is read; and compacted. Medians of CPU time with the index open, every read
of other rows; and the wall time to open the index and read once.
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
from benchmarks.search import item_rows, new_store, once
from benchmarks.vectors import images
from prolip_search.answering import RESULT_COLUMNS
from prolip_search.engine import SearchEngine
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.snapshot import drop_snapshot
from prolip_search.indexes.store import Store

SEED = 1
DELETED = 0.03
N_APPENDED = 1000
LIMIT = 1.5  # of the same read before the delete
READS = {"10 results": 10, "1,000 results": 1000}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    states = measure(options.items, options.dim, options.runs)
    result = facts_of_run() | {
        "items": options.items,
        "dim": options.dim,
        "deleted": DELETED,
        "seed": SEED,
        "states": states,
        "after / before": {
            state: {name: ms / states["up to date"][name] for name, ms in reads.items()}
            for state, reads in states.items()
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    worst = max(
        ratio
        for reads in result["after / before"].values()
        for name, ratio in reads.items()
        if not name.startswith("open")
    )
    return 0 if worst <= LIMIT else 1


def measure(n: int, dim: int, n_runs: int) -> dict[str, dict[str, float]]:
    """Every read in every state."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder), dim, IndexSettings(kind="flat"))
        SearchEngine(store, encoder=None, runtime="auto").add_gaussians(stream(n, dim))
        everything = store.table(["id", "row_id"])
        order = rng.permutation(n)
        n_deleted = int(DELETED * n)
        kept = everything.take(order[n_deleted:])

        def read() -> dict[str, float]:
            return reads(store.folder, kept["row_id"].to_numpy(), kept["id"].to_pylist(), n_runs)

        states = {"up to date": read()}
        store.delete(everything["id"].take(order[:n_deleted]).to_pylist())
        states["behind a delete"] = read()
        store.append(item_rows(images(N_APPENDED, dim, SEED + 1), "new"))
        states["behind a delete and an append"] = read()
        store.refresh_index()
        states["up to date after a delete"] = read()
        with store.writer():
            drop_snapshot(store.folder)
        states["no derived files"] = read()
        store.optimize()
        states["compacted"] = read()
    return states


def reads(folder: Path, row_ids: np.ndarray, ids: list[str], n_runs: int) -> dict[str, float]:
    """Milliseconds of each read, by name."""
    rng = np.random.default_rng(SEED)
    found: dict[str, float] = {}
    store = Store.open(folder)
    for name, n in READS.items():
        some = [rng.choice(row_ids, n, replace=False) for _ in range(n_runs)]
        found[f"columns of {name}"] = median_ms(
            [lambda at=at: store.rows(at, RESULT_COLUMNS) for at in some]
        )
        found[f"Gaussians of {name}"] = median_ms(
            [lambda at=at: store.gaussians(at) for at in some]
        )
    named = [rng.choice(len(ids), 10, replace=False) for _ in range(n_runs // 4)]
    found["columns of 10 ids, from the table"] = median_ms(
        [
            lambda at=at: store.read_items([ids[i] for i in at], ["id", "content_hash"])
            for at in named
        ]
    )

    def open_and_read() -> None:
        Store.open(folder).rows(row_ids[:10], RESULT_COLUMNS)

    found["open and read once, wall"] = 1e3 * statistics.median(
        once(open_and_read) for _ in range(5)
    )
    return found


def median_ms(actions: list[Callable[[], Any]]) -> float:
    """CPU time of the process, of the second half: the first pays for what is read once."""
    spent = []
    for action in actions:
        start = time.process_time()
        action()
        spent.append(time.process_time() - start)
    return 1e3 * statistics.median(spent[len(spent) // 2 :])


if __name__ == "__main__":
    raise SystemExit(main())
