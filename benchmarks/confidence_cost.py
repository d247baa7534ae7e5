"""What do confidences cost? Added time of a search, and the time of a fit.

    python -m benchmarks.confidence_cost [--n 100000] [--dim 768] [--out FILE]

One flat index, one run. Each query is asked twice, in alternating order: by Store.search alone, and
by everything that an answer with confidences needs besides: looking around, the reference sample,
confidences with their bands, none-probability, expected matches and cutoff. On one thread, where a
single query runs anyway. Then a fit of 1,000 judgements of 250 queries and 100 pairs from what the
store remembers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import facts_of_run
from benchmarks.search import item_rows, new_store
from benchmarks.vectors import image_blocks, texts
from prolip_search.answering import confidence_model, query_evidence
from prolip_search.calibrating import refit
from prolip_search.confidence.scoring import score, score_results
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.store import Store

K, N_TIMED, N_FITS = 10, 200, 5
N_QUERIES, N_JUDGED, N_NOTHING, N_PAIRS = 250, 4, 60, 100
SEEDS = {"items": 1, "labels": 3, "queries": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder), options.dim, IndexSettings(kind="flat"))
        for number, block in enumerate(image_blocks(options.n, options.dim, SEEDS["items"])):
            store.append(item_rows(block, f"item-{number:03}"))
        store.refresh_index()
        record_labels(store, options.dim)
        fits = [once(lambda: refit(store, no_encoder)) for _ in range(N_FITS)]
        result = facts_of_run() | {"n": options.n, "dim": options.dim, "seeds": SEEDS}
        result |= measured(Store.open(store.folder), options.dim)
        result["fit_s"] = statistics.median(fits)
        result["fit_s_range"] = [min(fits), max(fits)]
    result["n_judgements"] = N_QUERIES * N_JUDGED
    print(
        f"N = {options.n:,}, D = {options.dim}: search {result['search_p50_ms']:.2f} ms, with "
        f"confidences {result['with_confidences_p50_ms']:.2f} ms; added "
        f"{100 * result['added_share']:.1f} %, of processor time "
        f"{100 * result['added_cpu_share']:.1f} % (medians of pairs; bar 10 %)\n"
        f"of it: " + ", ".join(f"{k} {v:.2f} ms" for k, v in result["stages_p50_ms"].items()) + "\n"
        f"fit of {result['n_judgements']:,} judgements: {result['fit_s']:.2f} s (bar 2 s)"
    )
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def measured(store: Store, dim: int) -> dict[str, Any]:
    """Times of single queries, with and without."""
    model = confidence_model(store)
    assert model is not None
    known = model.of("text")
    assert known.match is not None
    assert known.none is not None
    assert known.cutoff is not None
    # Matches are counted from more judgements on than are recorded here; the cost is the same.
    model = replace(model, kinds={"text": replace(known, expects_matches=True)})
    logit = store.encoder.match_logit
    queries = texts(N_TIMED, dim, SEEDS["queries"])
    stages: dict[str, list[float]] = {"look around": [], "score": []}

    def alone(query: Gaussians) -> np.ndarray:
        return store.search(query, K).row_id

    def whole(query: Gaussians) -> np.ndarray:
        hits, found = store.search_with_evidence(query, K)
        start = time.perf_counter()
        assert found is not None
        evidence = query_evidence(found, query.uncertainty, logit)
        about = score(model, "text", evidence, with_results=False)
        score_results(model, "text", evidence, logit.logit(hits.csd.astype(np.float64)))
        assert about.none_probability is not None
        stages["score"].append(time.perf_counter() - start)
        return hits.row_id

    for at in range(5):
        alone(queries[at])
        whole(queries[at])
    stages["score"].clear()
    plain: list[tuple[float, float]] = []
    full: list[tuple[float, float]] = []
    for at in range(N_TIMED):
        query = queries[at]
        rows = []
        order = [(alone, plain), (whole, full)]
        for run, times in order if at % 2 else reversed(order):
            start = time.perf_counter(), time.thread_time()
            rows.append(run(query))
            times.append((time.perf_counter() - start[0], time.thread_time() - start[1]))
        assert np.array_equal(rows[0], rows[1])  # the order of results is the same
    before, after = np.array(plain), np.array(full)  # [n, 2]: by the clock, of the processor
    added = after - before
    stages["look around"] = (added[:, 0] - np.array(stages["score"])).tolist()
    p50, p50_added = np.median(before, axis=0), np.median(added, axis=0)
    return {
        "search_p50_ms": 1e3 * float(p50[0]),
        "with_confidences_p50_ms": 1e3 * float(np.median(after[:, 0])),
        "added_p50_ms": 1e3 * float(p50_added[0]),
        "added_share": float(p50_added[0] / p50[0]),
        "search_cpu_p50_ms": 1e3 * float(p50[1]),
        "added_cpu_p50_ms": 1e3 * float(p50_added[1]),
        "added_cpu_share": float(p50_added[1] / p50[1]),
        "stages_p50_ms": {name: 1e3 * statistics.median(t) for name, t in stages.items()},
    }


def record_labels(store: Store, dim: int) -> None:
    """Judgements of made-up truth: an item matches the more likely the larger its logit."""
    rng = np.random.default_rng(SEEDS["labels"])
    queries = texts(N_QUERIES + N_PAIRS, dim, SEEDS["labels"])
    rows: list[dict[str, Any]] = []
    hits = store.search(queries, 200)
    middle = float(np.median(hits.csd[:N_QUERIES, 9]))

    def row(query: int, item: int | None, label: str, rank: int | None) -> dict[str, Any]:
        row_id = None if item is None else int(hits.row_id[query, item])
        id = None if row_id is None else store.rows([row_id], ["id"])["id"][0].as_py()
        return {
            "query_kind": "text",
            "query_text": f"query {query}",
            "query_mean": queries.mean[query].tolist(),
            "query_log_variance": queries.log_variance[query].tolist(),
            "item_id": id,
            "label": label,
            "source": "pairs" if label == "target" else "judge",
            "rank": rank,
            "judged_probability": None if rank is None else (0.28 if rank <= 10 else 1.2 / 190),
            "encoder": store.encoder.fingerprint,
        }

    for query in range(N_QUERIES):
        is_absent = query < N_NOTHING
        for rank in (1, 4, 9, 120):
            chance = 1 / (1 + np.exp(20 * (hits.csd[query, rank - 1] - middle)))
            is_match = not is_absent and rng.random() < chance
            rows.append(row(query, rank - 1, "match" if is_match else "no_match", rank))
        if is_absent:
            rows.append(row(query, None, "none", None))
    rows += [
        row(query, int(rng.integers(0, 30)), "target", None)
        for query in range(N_QUERIES, N_QUERIES + N_PAIRS)
    ]
    table = pa.Table.from_pylist(rows)
    times = pa.array([0] * len(rows), pa.timestamp("us", "UTC"))
    store.record_judgements(table.append_column("time", times))


def no_encoder() -> Any:
    raise AssertionError("a fit of queries of this encoder encodes nothing")


def once(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
