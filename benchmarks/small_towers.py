"""A whole ProLIP from scratch on a CPU: trained by a recipe, measured, exported, indexed, queried.

    python -m benchmarks.small_towers --data FOLDER --out FOLDER --json FILE

FOLDER of data: train.parquet, val.parquet and test.parquet (columns id, captions, image). Training
is the command `prolip-search train small`; the exported folder is then measured on test as any
encoder is, and photos of val are indexed and queried with it through the command line. OUT holds
the run, pictures (loss.png, uncertainty/) and the index.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import facts_of_run
from prolip_search import load_encoder
from prolip_search.train.datasets.captioned import CaptionedImages, open_captioned
from prolip_search.train.evaluation.drawing import draw_lines
from prolip_search.train.evaluation.encoding import EncodedPairs, encode_captioned
from prolip_search.train.evaluation.report import to_text
from prolip_search.train.evaluation.retrieval import (
    DIRECTIONS,
    MEASURES,
    own_matches,
    retrieve,
)
from prolip_search.train.evaluation.uncertainty_pages import uncertainty_report
from prolip_search.train.evaluation.uncertainty_report import evaluate_uncertainty

TERMS = ("ppcl", "image_in_text", "image_in_masked", "text_in_masked", "vib")
SMOOTHED = 25  # steps
N_INDEXED = 500
QUERIES = ("a dog running in the grass", "a child in the water", "a man on a bike", "snow")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = options.out / "run"

    begin = time.perf_counter()
    changes = [word for change in options.set for word in ("--set", change)]
    prolip_search("train", "small", "--data", str(options.data), "--out", str(run), *changes)
    seconds = time.perf_counter() - begin

    test = open_captioned(options.data / "test.parquet")
    encoder = load_encoder(run / "encoder")
    pairs = encode_captioned(test, encoder)
    behaviour = evaluate_uncertainty(encoder, test, n_reduced=200)
    uncertainty_report(behaviour, encoder, test).write(options.out / "uncertainty")
    log = lines_of(run / "log.jsonl")
    (options.out / "loss.png").write_bytes(draw_loss(log))

    figures = {
        "run": facts_of_run(),
        "training_s": round(seconds),
        "steps": len(log),
        "recipe": recipe_of(run / "encoder"),
        "loss, means of a tenth of the steps": curves(log),
        "validation": lines_of(run / "validation.jsonl"),
        "retrieval on test": recalls(pairs),
        "uncertainty on test": behaviour.to_json(),
        "histograms of uncertainty on test": {
            "images": histogram(behaviour.image_uncertainty),
            "captions": histogram(behaviour.text_uncertainty),
        },
        "index of val photos": index_and_query(
            open_captioned(options.data / "val.parquet"), run / "encoder", options.out / "library"
        ),
    }
    text = to_text(figures)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(figures["retrieval on test"], indent=2))
    return 0


def prolip_search(*words: str) -> str:
    """The command as a person runs it; what it prints."""
    command = [sys.executable, "-m", "prolip_search.cli", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def recipe_of(encoder: Path) -> dict[str, Any]:
    """What it was trained with, without where the data lay."""
    recipe: dict[str, Any] = json.loads((encoder / "training.json").read_text())["recipe"]
    del recipe["data"]["paths"]
    return recipe


def lines_of(file: Path) -> list[dict[str, float]]:
    """The JSON objects of a log."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def draw_loss(log: list[dict[str, float]]) -> bytes:
    """PPCL, smoothed, over the steps."""
    ppcl = np.array([line["ppcl"] for line in log])
    smooth = np.convolve(ppcl, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
    series = {
        "each step": (np.arange(1, len(ppcl) + 1), ppcl),
        f"mean of {SMOOTHED} steps": (np.arange(len(smooth)) + (SMOOTHED + 1) / 2, smooth),
    }
    return draw_lines(series, xlabel="step", ylabel="PPCL")


def curves(log: list[dict[str, float]]) -> dict[str, list[float]]:
    """Each term's means over ten parts of the run."""
    return {
        term: [round(float(part.mean()), 5) for part in np.array_split(values, 10)]
        for term in TERMS
        for values in [np.array([line[term] for line in log])]
    }


def recalls(pairs: EncodedPairs) -> dict[str, Any]:
    """Recall and more by CSD and by cosine, with intervals, beside what a random order gives."""
    found = retrieve(
        pairs.images, pairs.texts, pairs.owners, own_matches(pairs.owners, len(pairs.images))
    )
    result: dict[str, Any] = {}
    for direction in DIRECTIONS:
        chance = found.of("csd", direction).chance()
        result[direction] = {
            "chance": {
                name: None if np.isnan(value) else round(float(value), 3)
                for name, value in zip(MEASURES, chance, strict=True)
            },
            **{
                score: {
                    name: [round(v, 2) for v in (one.value, one.low, one.high)]
                    for name, one in found.of(score, direction).estimates().items()
                }
                for score in ("csd", "cosine")
            },
        }
    return result


def histogram(values: npt.NDArray[np.float32]) -> dict[str, list[float]]:
    """Twenty bins from the least to the largest."""
    counts, edges = np.histogram(values, bins=20)
    return {"edges": [round(float(e), 5) for e in edges], "counts": counts.tolist()}


def index_and_query(data: CaptionedImages, encoder: Path, library: Path) -> dict[str, Any]:
    """Photos as files, indexed and asked with the exported encoder by the command line."""
    photos = library / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for row in range(min(N_INDEXED, len(data))):
        data.image(row).save(photos / f"{row:04d}.jpg", quality=90)
    index = str(library / ".prolip-search")
    prolip_search("index", str(photos), "--index", index, "--encoder", str(encoder))
    engine_answers = {}
    for query in QUERIES:
        answer = json.loads(prolip_search("query", query, "--index", index, "--json"))
        engine_answers[query] = [result["path"] for result in answer["results"][:5]]
    return {
        "photos": min(N_INDEXED, len(data)),
        "results": {q: len(paths) for q, paths in engine_answers.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
