"""Photos per second: read and decoded alone, encoded alone, and both through the engine.

    python -m benchmarks.indexing [--photos 384] [--data FOLDER] [--out FILE]

Over drawn JPEGs of 4 megapixels, or those of FOLDER. Twice: with one core for each stage, where
the whole should take no longer than the slower of the two; and as `prolip-search index` runs it,
where both stages want all cores, so that at best the whole takes what both take in CPU time over
the number of cores. The best of several rounds in turn: other programs only ever add.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.decoding import drawn_photo
from benchmarks.machine import facts_of_run
from prolip_search.encoders.loading import load_encoder
from prolip_search.encoders.protocol import Encoder
from prolip_search.engine import SearchEngine
from prolip_search.files import content_hash, read_file
from prolip_search.images import decode
from prolip_search.indexing import update
from prolip_search.ingestion import ENCODE_SIZE

SEED = 0
WIDTH, HEIGHT = 2400, 1800
LIMIT = 1.15  # of the slower stage, with a core for each


@dataclass
class Spent:
    """Seconds by the clock and of the processor, of the best run so far."""

    wall_s: float = np.inf
    cpu_s: float = np.inf
    others_cores: float = 0.0  # that other programs used meanwhile

    def run(self, action: Callable[[], object]) -> None:
        """Runs once more."""
        wall, cpu, busy = time.perf_counter(), time.process_time(), busy_s()
        action()
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        if wall_s < self.wall_s:
            self.wall_s, self.cpu_s = wall_s, cpu_s
            self.others_cores = max(0.0, busy_s() - busy - cpu_s) / wall_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=384)
    parser.add_argument("--data", type=Path, help="a folder of JPEGs to use instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        photos.mkdir()
        if options.data:
            chosen = sorted(options.data.rglob("*.jpg"))[: options.photos]
            for number, source in enumerate(chosen):
                shutil.copy(source, photos / f"{number:05}.jpg")
        else:
            draw(photos, options.photos)
        result = facts_of_run() | {
            "photos": len(list(photos.iterdir())),
            "from": "--data" if options.data else f"drawn, {WIDTH} x {HEIGHT}, seed {SEED}",
            "one core for each stage": measure(photos, options.rounds, n_cores=1, n_threads=1),
            "all cores for both": measure(
                photos, options.rounds, n_cores=n_cores, n_threads=min(4, n_cores)
            ),
        }
    apart = result["one core for each stage"]
    apart["limit"] = LIMIT
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0 if apart["whole / slower stage, wall"] <= LIMIT else 1


def draw(folder: Path, n: int) -> None:
    """Pieces of one drawn picture: no two files have the same bytes."""
    rng = np.random.default_rng(SEED)
    whole = Image.open(io.BytesIO(drawn_photo(4000, 3000))).convert("RGB")
    for number in range(n):
        left, top = rng.integers(0, (4000 - WIDTH, 3000 - HEIGHT), endpoint=True).tolist()
        piece = whole.crop((left, top, left + WIDTH, top + HEIGHT))
        piece.save(folder / f"{number:05}.jpg", quality=90)


def measure(photos: Path, n_rounds: int, *, n_cores: int, n_threads: int) -> dict[str, Any]:
    """Both stages and the whole, the encoder on `n_cores` and reading in `n_threads`."""
    files = sorted(photos.iterdir())
    with on_cores(n_cores):  # the runtime looks when it is made
        encoder = load_encoder("mini", runtime="onnx")
        encoder.encode_prepared(prepared(encoder, files[0])[None])
    batches = [
        np.stack([prepared(encoder, path) for path in files[at : at + ENCODE_SIZE]])
        for at in range(0, len(files), ENCODE_SIZE)
    ]

    def read_all() -> None:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda path: len(prepared(encoder, path)), files))

    def encode_all() -> None:
        for batch in batches:
            encoder.encode_prepared(batch)

    def index_all() -> None:
        with tempfile.TemporaryDirectory(dir=photos.parent) as folder:
            engine = SearchEngine.create(Path(folder) / ".prolip-search", encoder=encoder)
            report = update(engine.store, lambda: encoder, [photos], n_threads=n_threads)
            assert report.n_added == len(files)

    read, encode, whole = Spent(), Spent(), Spent()
    for _ in range(n_rounds):
        read.run(read_all)
        encode.run(encode_all)
        whole.run(index_all)
    slower = max(read.wall_s, encode.wall_s)
    n_all = n_threads + n_cores if n_cores == 1 else n_cores
    bound = max(slower, (read.cpu_s + encode.cpu_s) / n_all)
    return {
        "cores of the encoder": n_cores,
        "threads that read": n_threads,
        "read and decoded alone, photos/s": len(files) / read.wall_s,
        "encoded alone, photos/s": len(files) / encode.wall_s,
        "whole, photos/s": len(files) / whole.wall_s,
        "whole / slower stage, wall": whole.wall_s / slower,
        "whole / what the cores allow, wall": whole.wall_s / bound,
        "cores taken by other programs during it": whole.others_cores,
        "whole / both stages, CPU": whole.cpu_s / (read.cpu_s + encode.cpu_s),
    }


def busy_s() -> float:
    """Seconds for which the cores were at work since the machine started, all of them together."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def prepared(encoder: Encoder, path: Path) -> np.ndarray:
    """What a thread of an indexing run does for one new file."""
    data = read_file(path)
    content_hash(data)
    pixels = decode(data, path, min_side=encoder.image_size).pixels
    return np.asarray(encoder.prepare_image(pixels))


@contextmanager
def on_cores(n: int) -> Iterator[None]:
    """Lets this thread use that many of its cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    raise SystemExit(main())
