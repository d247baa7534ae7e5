"""How many pairs a second does the loader prepare, by number of threads and by kind of source?

    python -m benchmarks.loading --data FILE [--threads 1 2 4] [--size 224] [--seconds 10] [--json]

FILE is captioned data as training takes it; it is read as it is, and once more from tar shards
written from its first 2,000 rows. Decoding, augmentation and tokenising are those of training. The
first batch is not counted. Pairs a CPU second say how much one core prepares; were Python's lock in
the way, pairs a second would stop growing with the threads before the cores are used up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.tokenizers import ClipTokenizer
from prolip_search.train.datasets.captioned import open_captioned
from prolip_search.train.datasets.config import DataConfig
from prolip_search.train.datasets.opening import open_loader
from prolip_search.train.datasets.writing import write_shards

N_ROWS_OF_SHARDS = 2000
BATCH_SIZE = 128


def speed(config: DataConfig, size: int, seconds: float) -> dict[str, float]:
    """Pairs a second and pairs a CPU second, over at least so many seconds."""
    loader = open_loader(
        config,
        batch_size=BATCH_SIZE,
        seed=0,
        preprocessing=ImagePreprocessing(size=size),
        tokenizer=ClipTokenizer(64),
        normalise=False,
    )
    batches = iter(loader)
    next(batches)
    start, cpu_start, n_pairs = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        n_pairs += len(next(batches))
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    batches.close()
    return {"pairs_per_s": n_pairs / elapsed, "pairs_per_cpu_s": n_pairs / cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = open_captioned(options.data)
    n = min(len(data), N_ROWS_OF_SHARDS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        few = replace(data, ids=data.ids[:n], captions=data.captions[:n])
        write_shards(few, Path(folder), samples_per_shard=200)
        for source, path in (("rows", str(options.data)), ("shards", folder)):
            for threads in options.threads:
                config = DataConfig(paths=(path,), threads=threads, shuffle_buffer=500)
                found = speed(config, options.size, options.seconds)
                rows.append({"source": source, "threads": threads, **found})
    if options.json:
        machine = {"machine": platform.platform(), "cores": os.cpu_count()}
        print(json.dumps({**machine, "size": options.size, "rows": rows}, indent=2))
        return
    print(f"{os.cpu_count()} cores, {options.size} pixels, augmented")
    for row in rows:
        print(
            f"{row['source']:<7} {row['threads']:>3} threads {row['pairs_per_s']:8.0f} pairs/s "
            f"{row['pairs_per_cpu_s']:8.0f} pairs/CPU s"
        )


if __name__ == "__main__":
    main()
