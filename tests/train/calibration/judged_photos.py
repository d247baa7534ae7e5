"""A small judged collection whose truth is known: photos of two colours, texts that name some."""

from __future__ import annotations

import csv
import io
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "cyan")
N_PHOTOS = 160


def write_photos(folder: Path, name: str = "photos", n_photos: int = N_PHOTOS) -> Path:
    """A Parquet file of photos with two captions each; photo i shows `colours_of(i)`."""
    rows = []
    for number in range(n_photos):
        left, right = colours_of(number)
        picture = Image.new("RGB", (16, 12), left)
        picture.paste(Image.new("RGB", (6 + number % 5, 12), right), (0, 0))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        captions = [f"a {left} and {right} picture", f"{left} stands beside the {right} wall"]
        rows.append(
            {"id": f"{name}/{number}", "captions": captions, "image": buffer.getvalue()}
        )  # fmt: skip
    file = folder / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def colours_of(number: int) -> tuple[str, str]:
    pairs = list(combinations(COLOURS, 2))
    return pairs[number % len(pairs)]


def write_votes(folder: Path, n_pairs: int = 3000, seed: int = 0) -> Path:
    """Three votes a pair: yes for the same two colours, and sometimes for one in common."""
    rng = np.random.default_rng(seed)
    pairs = {(i, i) for i in range(N_PHOTOS)}
    pairs |= {tuple(pair) for pair in rng.integers(0, N_PHOTOS, (n_pairs, 2)).tolist()}
    file = folder / "votes.csv"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["image_id", "caption_image_id", "caption_index", "yes", "no"])
        for image, owner in sorted(pairs):
            shared = len({*colours_of(image)} & {*colours_of(owner)})
            yes = int(rng.binomial(3, (0.02, 0.2, 0.95)[shared]))
            rows.writerow([f"photos/{image}", f"photos/{owner}", 0, yes, 3 - yes])
    return file


def write_lines(folder: Path, n_queries: int = 60, seed: int = 0) -> Path:
    """The same as lines of JSON, with queries that belong to no photo."""
    rng = np.random.default_rng(seed)
    file = folder / "said.jsonl"
    with file.open("w") as out:
        for number in range(n_queries):
            colour = COLOURS[number % len(COLOURS)]
            for image in rng.choice(N_PHOTOS, 20, replace=False).tolist():
                said = {
                    "query": f"{colour} number {number}",
                    "image": f"photos/{image}",
                    "match": colour in colours_of(image),
                }
                out.write(json.dumps(said) + "\n")
    return file
