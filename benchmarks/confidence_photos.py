"""Does the shipped confidence of the bundled encoder keep its word on real photos?

    python -m benchmarks.confidence_photos --data FOLDER --cache FOLDER [--json FILE]
        [--report FOLDER]

FOLDER of data: test.parquet, val.parquet, distractors.parquet and crowd_judgments.csv (votes on
pairs of Flickr8k 1K test). The shipped calibration was fitted on half 0 of the test photos and on
val; everything printed here but the searches of val is from half 1. The queries of
benchmarks/data/absent.toml and present.toml search half 1 and the 2,000 uncaptioned photos.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from prolip_search import load_encoder
from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.defaults import default_model
from prolip_search.confidence.scoring import score
from prolip_search.encoders.protocol import Encoder
from prolip_search.metrics import auroc, bootstrap_interval, smooth_ece
from prolip_search.train.calibration.galleries import gallery_evidence, match_logits
from prolip_search.train.calibration.photos import Photos, read_photos
from prolip_search.train.calibration.report import evaluate_calibration, halves, write_report
from prolip_search.train.calibration.report_page import verdict
from prolip_search.train.calibration.searches import everyday_queries
from prolip_search.train.calibration.unanswered import answers_and_rest
from prolip_search.train.evaluation.encoding import encode_texts

HERE = Path(__file__).parent / "data"
SMECE_BAR = 0.04
SHORT = 6  # words
# The words on screen: cli/confidences.py.
WORDS = (("Probably nothing here matches", 0.8), ("Perhaps nothing here matches", 0.5))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", type=Path, help="a folder for the report with its pictures")
    options = parser.parse_args()
    encoder = load_encoder("mini")
    shipped = default_model(encoder.fingerprint)
    if shipped is None:
        print("No calibration is shipped for this encoder.")
        return 1
    result = evaluate_calibration(
        encoder,
        options.data / "test.parquet",
        options.data / "crowd_judgments.csv",
        pairs=options.data / "val.parquet",
        calibration=shipped,
        cache=options.cache,
    )
    figures = result.report | {
        "short queries": short_queries(encoder, shipped, options.data, options.cache),
        "mixed gallery": mixed_gallery(encoder, shipped, options.data, options.cache),
    }
    del figures["made"]  # the same figures give the same file
    show(figures)
    if options.report is not None:
        write_report(result, options.report)
    if options.json is not None:
        text = json.dumps(_rounded(figures), indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    return (
        0 if figures["judged pairs"]["scores"]["confidence"]["smECE"]["value"] <= SMECE_BAR else 1
    )


def short_queries(
    encoder: Encoder, model: ConfidenceModel, data: Path, cache: Path
) -> list[dict[str, Any]]:
    """Short queries, as people type them, by how many photos of half 1 are described by them.

    A photo is described when its five captions name every word of the query: at least these
    photos match, and others do whose captions pass over it.
    """
    _, gallery = halves(read_photos(data / "test.parquet", encoder, cache))
    queries, owners = everyday_queries(gallery)
    chosen = [row for row, query in enumerate(queries) if len(query.split()) <= SHORT]
    queries, owners = [queries[row] for row in chosen], owners[chosen]
    described, _ = answers_and_rest(queries, owners.tolist(), gallery.captions)
    texts = encode_texts(encoder, queries, cache)
    logits = match_logits(encoder.match_logit, texts, gallery.gaussians)
    said = score(model, "text", gallery_evidence(logits, texts.uncertainty, gallery.ids))
    assert said.results is not None
    order = np.argsort(-logits, axis=1, kind="stable")
    found = np.take_along_axis(described, order, axis=1)
    n_described = described.sum(axis=1)
    table = []
    for least, most in ((1, 3), (4, 20), (21, len(gallery))):
        some = (n_described >= least) & (n_described <= most)
        for first, last in ((1, 1), (2, 5), (6, 20)):
            at = slice(first - 1, last)
            table.append(
                {
                    "photos described": f"{least} to {most}",
                    "queries": int(some.sum()),
                    "ranks": f"{first} to {last}",
                    "mean confidence": float(said.results.confidence[some, at].mean()),
                    "described": float(found[some, at].mean()),
                }
            )
    return table


def mixed_gallery(
    encoder: Encoder, model: ConfidenceModel, data: Path, cache: Path
) -> dict[str, Any]:
    """`none_probability` of queries whose subject is absent, and of such whose subject is there."""
    _, held_out = halves(read_photos(data / "test.parquet", encoder, cache))
    gallery = held_out + read_photos(data / "distractors.parquet", encoder, cache)
    queries, absent, sort = [], [], []
    for name, is_absent in (("absent", True), ("present", False)):
        groups = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
        for group, some in groups.items():
            queries += some
            absent += [is_absent] * len(some)
            sort += [f"{name}, {group}"] * len(some)
    return _none_figures(encoder, model, gallery, queries, np.array(absent), np.array(sort), cache)


def _none_figures(
    encoder: Encoder,
    model: ConfidenceModel,
    gallery: Photos,
    queries: list[str],
    absent: np.ndarray[Any, np.dtype[np.bool_]],
    sort: np.ndarray[Any, np.dtype[np.str_]],
    cache: Path,
) -> dict[str, Any]:
    texts = encode_texts(encoder, queries, cache)
    logits = match_logits(encoder.match_logit, texts, gallery.gaussians)
    evidence = gallery_evidence(logits, texts.uncertainty, gallery.ids)
    said = score(model, "text", evidence)
    assert said.none_probability is not None
    assert said.results is not None
    none = said.none_probability
    best = said.results.confidence[:, 0]
    cosine = (texts.mean @ gallery.gaussians.mean.T).max(axis=1)
    scores = {
        "none_probability": none,
        "1 - confidence of the first": 1 - best,
        "top-1 cosine": -cosine,
        "top logit": -logits.max(axis=1),
    }
    rows = np.arange(len(queries))
    return {
        "photos": len(gallery),
        "queries": len(queries),
        "auroc": {
            name: {
                "value": auroc(values, absent),
                "interval": list(
                    bootstrap_interval(lambda r, v=values: auroc(v[r], absent[r]), rows)  # type: ignore[misc]
                ),
            }
            for name, values in scores.items()
        },
        "smECE": smooth_ece(none, absent),
        "by sort": {
            name: {
                "queries": int((sort == name).sum()),
                "mean none_probability": float(none[sort == name].mean()),
                "mean confidence of the first": float(best[sort == name].mean()),
                "words": _words(none[sort == name]),
            }
            for name in dict.fromkeys(sort.tolist())
        },
        "words": {
            "absent": _words(none[absent]),
            "present": _words(none[~absent]),
        },
        "each": [
            {
                "query": query,
                "absent": bool(is_absent),
                "none_probability": float(chance),
                "confidence of the first": float(first),
            }
            for query, is_absent, chance, first in zip(queries, absent, none, best, strict=True)
        ],
    }


def _words(none: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, int]:
    counted, left = {}, np.ones(len(none), dtype=bool)
    for words, least in WORDS:
        now = left & (none >= least)
        counted[words] = int(now.sum())
        left &= ~now
    return counted | {"no such words": int(left.sum())}


def show(figures: dict[str, Any]) -> None:
    """The figures that were asked for, with their bars."""
    pairs = figures["judged pairs"]
    print(f"Judged pairs, half held out by photo: {pairs['pairs']:,}, {pairs['yes']:,} matches")
    for name, some in pairs["scores"].items():
        low, high = some["auroc"]["interval"]
        error = ""
        if "smECE" in some:
            error = f"smECE {some['smECE']['value']:.3f} (perfect {some['smECE, floor']:.3f}), "
            error += f"weighted {some['smECE, weighted']:.3f}, "
        print(f"  {name:14} {error}AUROC {some['auroc']['value']:.3f} ({low:.3f} to {high:.3f})")
    error = pairs["scores"]["confidence"]["smECE"]["value"]
    print(f"  bar smECE <= {SMECE_BAR}: {'pass' if error <= SMECE_BAR else 'FAIL'}")
    for name, some in pairs["differences of AUROC"].items():
        low, high = some["interval"]
        print(f"  AUROC above {name}: {some['value']:+.4f} ({low:+.4f} to {high:+.4f})")
    print("By rank, of all results: mean confidence, and the share of matches at least and at most")
    for row in pairs["by rank"]:
        print(
            f"  rank {row['ranks']:10} {row['mean confidence']:.3f}   "
            f"{row['at least']:.3f} to {row['at most']:.3f}"
        )
    print(verdict(figures["first results"], "people's judgement of the first result"))
    print(verdict(figures["first targets"], "the very photo of the caption"))
    print("Short queries: mean confidence, and the share that captions describe (at least these)")
    for row in figures["short queries"]:
        print(
            f"  {row['queries']:3} queries that describe {row['photos described']:9} photos, rank "
            f"{row['ranks']:7} {row['mean confidence']:.2f}   >= {row['described']:.2f}"
        )
    print("Short queries of val, words held out: mean confidence, share of matches by captions")
    for name, some in figures["short results"]["by sort"].items():
        print(
            f"  {name:15} {some['mean confidence']:.2f}   {some['matches']:.2f} "
            f"(without short queries in the fit {some['mean without short queries']:.2f})"
        )
    mixed = figures["mixed gallery"]
    print(f"Mixed gallery of {mixed['photos']:,} photos, {mixed['queries']} queries, half absent")
    for name, some in mixed["auroc"].items():
        low, high = some["interval"]
        print(f"  {name:28} AUROC {some['value']:.3f} ({low:.3f} to {high:.3f})")
    for name, some in mixed["words"].items():
        print(f"  {name}: " + ", ".join(f"{n} × {words}" for words, n in some.items()))
    for name, some in mixed["by sort"].items():
        print(f"    {name}: mean none_probability {some['mean none_probability']:.2f}")
    print("90 % cutoffs on Flickr8k 1K test captions")
    for row in figures["coverage"]:
        low, high = row["interval"]
        print(
            f"  {row['pairs']:5,} pairs, {row['mode']:9} holds {row['coverage']:.3f} "
            f"({low:.3f} to {high:.3f}), median list {row['median length']:.0f}, fixed rank "
            f"{row['fixed rank of equal coverage']}; {row['splits']} splits: mean "
            f"{row['mean of splits']:.3f}, below 0.9 in {row['share of splits below']:.2f}"
        )


def _rounded(value: Any) -> Any:
    """Floats to five digits, without curves."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        # Curves are for the report; here they would be most of the file.
        return {name: _rounded(some) for name, some in value.items() if name != "risk"}
    return [_rounded(some) for some in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
