"""A calibration from judgements to report: fitted on one half of the photos, measured on the other.

What `prolip-search evaluate calibration` runs, for the bundled encoder and for any other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from prolip_search.confidence.absence import fit_none
from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.logistic import sigmoid
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import TrainingDataError
from prolip_search.metrics import auroc, smooth_ece, smooth_ece_floor
from prolip_search.train.calibration.figures import (
    draw_coverage,
    draw_ranks,
    draw_reliability,
    draw_risk,
    reliability_curve,
)
from prolip_search.train.calibration.fitting import fit_default, fit_matches, write_default
from prolip_search.train.calibration.galleries import Judged, see
from prolip_search.train.calibration.judged import photo_half, read_judgements
from prolip_search.train.calibration.photos import Photos, read_photos
from prolip_search.train.calibration.reliability import (
    Figures,
    confidences,
    coverage_table,
    first_results,
    first_targets,
    judged_pairs,
)
from prolip_search.train.calibration.report_page import report_page
from prolip_search.train.calibration.searches import Searches, everyday_queries, searches
from prolip_search.train.calibration.short_queries import KnownRows, known_rows, reliable_words
from prolip_search.train.evaluation.drawing import THEMES
from prolip_search.train.evaluation.encoding import Progress, encode_texts

N_FOLDS = 5
METHOD = (
    "Photos are split in two by a hash of their ids; a pair is kept when its photo and the photo "
    "its text was written for are in one half. Half 0 is for fitting, everything on this page but "
    "the search for nothing is from half 1, in a gallery of that half. A match is what most of the "
    "asked people called one; ties are left out. How likely a pair was to be judged is estimated "
    "from its rank and from whether the text is the photo's own. Short queries count with their "
    "first results in other photos, whose captions say what matches. The baselines are the "
    "training-free measures of “Over the Top-1” (Gomez, UAI 2025): cosine of the first result, "
    "how often the same item comes first when queries and items are drawn from their Gaussians, "
    "and how far the query must be moved until another comes first. Intervals are 95 %, by a "
    "bootstrap over "
    "queries, or over photos where several captions have one."
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A calibration, the judgements it was measured on, and the figures."""

    model: ConfidenceModel
    held_out: Judged
    report: Figures


def halves(photos: Photos) -> tuple[Photos, Photos]:
    """Half 0, for fitting, and half 1, for figures."""
    half = np.array([photo_half(name) for name in photos.ids])
    return photos[np.flatnonzero(half == 0)], photos[np.flatnonzero(half == 1)]


def evaluate_calibration(
    encoder: Encoder,
    data: Path,
    judgements: Path,
    *,
    pairs: Path | None = None,
    calibration: ConfidenceModel | None = None,
    cache: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Fits on half 0 of the photos in `data` and measures on half 1.

    data: a Parquet file or a folder (`photos.read_photos`). judgements: `judged.read_judgements`.
    pairs: other photos with captions, for short queries, `none_probability` and percentiles.
    calibration: this one is measured in place of the fitted one, which is right only if it was
    fitted on half 0 too.
    Raises TrainingDataError, TrainingError and whatever the encoder raises.
    """
    photos = read_photos(data, encoder, cache, progress)
    said = read_judgements(
        judgements, dict(zip(photos.ids, photos.captions, strict=True)), photos.ids
    )
    line = encoder.match_logit
    first_half, second_half = halves(photos)
    seen, held_out = (
        see(some, encode_texts(encoder, some.queries, cache), gallery, line)
        for some, gallery in ((said.half(0), first_half), (said.half(1), second_half))
    )
    captioned, known = None, None
    if pairs is not None:
        captioned = read_photos(pairs, encoder, cache, progress)
        words = reliable_words(captioned.captions)
        short = [text for word in words for text in word.queries]
        if short:
            known = known_rows(words, encode_texts(encoder, short, cache), captioned, line)
    progress("fitting", 0, int(seen.judged.sum()))
    matches = fit_matches(seen, known)
    asked = None
    model = fit_default(matches, encoder.fingerprint)
    if captioned is not None and matches.match is not None:
        texts, owners = everyday_queries(captioned)
        if not texts:
            raise TrainingDataError(f"{pairs} has no captions.")
        gaussians = encode_texts(encoder, texts, cache)
        asked = searches(matches.match, texts, owners, gaussians, captioned, line)
        model = fit_default(
            matches,
            encoder.fingerprint,
            asked=asked,
            texts=gaussians,
            photos=captioned,
            line=line,
        )
    model = model if calibration is None else calibration
    progress("measuring", 0, int(held_out.judged.sum()))
    confidence = confidences(model, held_out)
    captions, owner = second_half.pairs()
    targets, coverage = None, None
    if captions:
        caption_gaussians = encode_texts(encoder, captions, cache)
        targets = first_targets(model, second_half, caption_gaussians, line)
        # All photos are in the gallery, as in a search; only those of half 1 are asked for.
        position = {name: row for row, name in enumerate(photos.ids)}
        asked_for = np.array([position[name] for name in second_half.ids])
        coverage = coverage_table(
            model, photos, asked_for, caption_gaussians, asked_for[owner], line
        )
    report: Figures = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "photos": {"fitted on": len(first_half), "measured on": len(second_half)},
        "pairs fitted on": int(seen.judged.sum()),
        "ties left out": said.n_ties,
        "judged pairs": judged_pairs(confidence, held_out),
        "first results": first_results(confidence, held_out),
        "first targets": targets,
        "coverage": coverage,
        "short results": None if known is None else short_quality(seen, known),
        "none": None if asked is None else none_quality(asked),
        "method": METHOD,
    }
    return Evaluation(model, held_out, report)


def none_quality(asked: Searches) -> Figures | None:
    """`none_probability` on searches it was not fitted on: five folds, split by photo."""
    probability = np.full(len(asked.nothing), np.nan)
    for fold in range(N_FOLDS):
        inside = asked.owner % N_FOLDS == fold
        model = fit_none(asked.features[~inside], asked.nothing[~inside])
        if model is not None:
            probability[inside] = model.probability(asked.features[inside])
    known = np.isfinite(probability)
    if not known.any():
        return None
    return {
        "searches": int(known.sum()),
        "auroc": auroc(probability[known], asked.nothing[known]),
        "auroc of the top logit": auroc(-asked.features[known, 2], asked.nothing[known]),
        "smECE": smooth_ece(probability[known], asked.nothing[known]),
        "smECE, floor": smooth_ece_floor(probability[known]),
    }


def short_quality(seen: Judged, known: KnownRows) -> Figures | None:
    """Confidences of short queries whose words were not fitted on: five folds, split by word.

    Beside them what judgements alone give, and the share that captions say match.
    """
    alone = fit_matches(seen).match
    if alone is None or len(known) == 0:
        return None
    confidence = {"without short queries": alone.confidence(known.features)}
    held_out = confidence["confidence"] = np.empty(len(known))
    for fold in range(N_FOLDS):
        inside = known.word % N_FOLDS == fold
        model = fit_matches(seen, known[~inside]).match
        assert model is not None
        held_out[inside] = model.confidence(known.features[inside])
    sorts = {
        "all": np.ones(len(known), dtype=bool),
        "answered": known.answered,
        "without answers": ~known.answered,
    }
    return {
        "smECE": {name: smooth_ece(some, known.is_match) for name, some in confidence.items()},
        "smECE, floor": smooth_ece_floor(held_out),
        "by sort": {
            name: {
                "results": int(rows.sum()),
                "matches": float(known.is_match[rows].mean()),
                **{f"mean {which}": float(some[rows].mean()) for which, some in confidence.items()},
            }
            for name, rows in sorts.items()
            if rows.any()
        },
    }


def write_report(result: Evaluation, folder: Path) -> list[Path]:
    """Writes report.html, report.json, the pictures and the calibration; the files, in order.

    Raises MissingExtra without Matplotlib, TrainingDataError when the folder cannot be written.
    """
    pictures = _draw(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page, figures = folder / "report.html", folder / "report.json"
        page.write_text(report_page(result.report, pictures), encoding="utf-8")
        figures.write_text(
            json.dumps(result.report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        files = [page, figures]
        for name, themes in pictures.items():
            files.append(folder / f"{name}.png")
            files[-1].write_bytes(themes["light"])
        return [*files, write_default(result.model, folder)]
    except OSError as error:
        raise TrainingDataError(f"{folder} cannot be written: {error}.") from error


def _draw(result: Evaluation) -> dict[str, dict[str, bytes]]:
    judged, report = result.held_out, result.report
    query, photo = np.nonzero(judged.judged)
    confidence = confidences(result.model, judged)[query, photo]
    label = judged.is_match[query, photo]
    ours = reliability_curve(confidence, label, query)
    raw = reliability_curve(sigmoid(judged.logits[query, photo]), label, query)
    pictures = {
        "reliability": {
            name: draw_reliability(ours, raw, confidence, theme) for name, theme in THEMES.items()
        },
        "ranks": {
            name: draw_ranks(report["judged pairs"]["by rank"], theme)
            for name, theme in THEMES.items()
        },
    }
    if "scores" in report["first results"]:
        pictures["risk"] = {
            name: draw_risk(report["first results"], theme) for name, theme in THEMES.items()
        }
    if report["coverage"]:
        pictures["coverage"] = {
            name: draw_coverage(report["coverage"], theme) for name, theme in THEMES.items()
        }
    return pictures
