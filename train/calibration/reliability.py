"""Whether confidences keep their word, measured on judgements that they were not fitted on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.cutoff import CutoffMode, cutoff_sizes, fit_cutoff, target_scores
from prolip_search.confidence.logistic import sigmoid
from prolip_search.confidence.matches import match_probabilities
from prolip_search.confidence.scoring import score_results
from prolip_search.distances import MatchLogit
from prolip_search.errors import TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.metrics import (
    auroc,
    bootstrap_interval,
    brier_parts,
    brier_score,
    clopper_pearson,
    excess_aurc,
    log_loss,
    smooth_ece,
    smooth_ece_floor,
)
from prolip_search.train.calibration.baselines import adversarial_margin, top_1_consistency
from prolip_search.train.calibration.fitting import SHOWN
from prolip_search.train.calibration.galleries import Judged, gallery_evidence, match_logits
from prolip_search.train.calibration.photos import Photos

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Figures = dict[str, Any]

RANKS = ((1, 1), (2, 3), (4, 10), (11, 30), (31, 100))
N_RESAMPLES = 1000
N_SPLITS = 200
MODES: tuple[CutoffMode, ...] = ("confident", "average")
# Of both labels, fewer first results say nothing about who tells them apart.
MIN_OF_EACH = 10

CONFIDENCE, RAW, COSINE = "confidence", "raw sigmoid", "top-1 cosine"
CONSISTENCY, MARGIN = "top-1 consistency", "adversarial margin"


def confidences(model: ConfidenceModel, judged: Judged) -> Doubles:
    """The shown confidence of every pair, [Q, N]. Raises TrainingError without a match model."""
    results = score_results(model, "text", judged.evidence, judged.logits)
    if results is None:
        raise TrainingError("This calibration gives no confidence for text queries.")
    return results.confidence


def judged_pairs(confidence: Doubles, judged: Judged) -> Figures:
    """Calibration and separation over the judged pairs, each alike, and as a collection has them.

    confidence [Q, N]. "weighted": by 1 / the estimated probability of having been judged.
    """
    query, photo = np.nonzero(judged.judged)
    label = judged.is_match[query, photo]
    cosine = (judged.gaussians.mean @ judged.photos.gaussians.mean.T)[query, photo]
    scores = {
        CONFIDENCE: confidence[query, photo],
        RAW: sigmoid(judged.logits[query, photo]),
        "cosine": cosine.astype(np.float64),
    }
    weights = 1.0 / judged.propensity[query, photo]
    figures: Figures = {
        "pairs": len(label),
        "texts": len(np.unique(query)),
        "photos": len(np.unique(photo)),
        "yes": int(label.sum()),
        "share judged": float(judged.judged.mean()),
        "scores": {},
        "differences of AUROC": {},
    }
    for name, values in scores.items():
        some: Figures = {"auroc": _with_interval(auroc, values, label, query)}
        if name != "cosine":
            some |= _calibration(values, label, query)
            some["smECE, weighted"] = smooth_ece(values, label, weights)
            some["smECE, weighted, floor"] = smooth_ece_floor(values, weights=weights)
            shown = judged.rank[query, photo] <= SHOWN
            some[f"smECE, ranks 1 to {SHOWN}"] = smooth_ece(values[shown], label[shown])
            some[f"smECE, ranks 1 to {SHOWN}, weighted"] = smooth_ece(
                values[shown], label[shown], weights[shown]
            )
            some[f"smECE, ranks 1 to {SHOWN}, floor"] = smooth_ece_floor(values[shown])
        figures["scores"][name] = some
    for other in (RAW, "cosine"):
        figures["differences of AUROC"][other] = _difference(
            auroc, scores[CONFIDENCE], scores[other], label, query
        )
    figures["by rank"] = [_at_ranks(confidence, judged, *ranks) for ranks in RANKS]
    return figures


def _calibration(values: Doubles, label: Mask, query: npt.NDArray[np.int64]) -> Figures:
    parts = brier_parts(values, label)
    return {
        "smECE": _with_interval(smooth_ece, values, label, query),
        "smECE, floor": smooth_ece_floor(values),
        "Brier": brier_score(values, label),
        "Brier, reliability": parts.reliability,
        "Brier, resolution": parts.resolution,
        "Brier, uncertainty": parts.uncertainty,
        "log loss": log_loss(values, label),
    }


def _at_ranks(confidence: Doubles, judged: Judged, first: int, last: int) -> Figures:
    """What is promised and what was found among all results of some ranks, judged or not.

    Of results that nobody judged only a text's own photo is known to match. The share of matches
    lies between "at least" (no other does) and "at most" (as many do as of the judged).
    """
    at = (judged.rank >= first) & (judged.rank <= last)
    known = at & (judged.judged | judged.own)
    yes = known & np.where(judged.judged, judged.is_match, judged.own)
    others = at & judged.judged & ~judged.own
    share = float(judged.is_match[others].mean()) if others.any() else 0.0
    unknown = int((at & ~known).sum())
    n_results = int(at.sum())
    return {
        "ranks": f"{first}" if first == last else f"{first} to {last}",
        "results": n_results,
        "judged": int((at & judged.judged).sum()),
        "mean confidence": float(confidence[at].mean()) if n_results else None,
        "yes among judged": float(judged.is_match[at & judged.judged].mean())
        if (at & judged.judged).any()
        else None,
        "at least": int(yes.sum()) / n_results if n_results else None,
        "at most": (int(yes.sum()) + share * unknown) / n_results if n_results else None,
    }


def first_results(confidence: Doubles, judged: Judged) -> Figures:
    """Who tells right first results from wrong ones: ours, the raw score, and the baselines.

    Right is what the majority said, or a text's own photo; first results that nobody judged are
    left out. Every score is about the result that comes first by CSD, which is what is shown.
    """
    first = judged.logits.argmax(axis=1)
    rows = np.arange(len(first))
    known = judged.judged[rows, first] | judged.own[rows, first]
    right = np.where(judged.judged, judged.is_match, judged.own)[rows, first][known]
    scores = _first_scores(
        confidence[rows, first], judged.logits, judged.gaussians, judged.photos.gaussians
    )
    return _telling({name: values[known] for name, values in scores.items()}, right, rows[known])


def first_targets(
    model: ConfidenceModel, photos: Photos, texts: Gaussians, line: MatchLogit
) -> Figures:
    """The same where right means: the very photo that the text was written for; texts [T]."""
    _, owner = photos.pairs()
    logits = match_logits(line, texts, photos.gaussians)
    evidence = gallery_evidence(logits, texts.uncertainty, photos.ids)
    results = score_results(model, "text", evidence, logits.max(axis=1)[:, None])
    if results is None:
        raise TrainingError("This calibration gives no confidence for text queries.")
    scores = _first_scores(results.confidence[:, 0], logits, texts, photos.gaussians)
    # Captions of one photo go together.
    return _telling(scores, logits.argmax(axis=1) == owner, owner)


def _first_scores(
    confidence: Doubles, logits: Doubles, texts: Gaussians, items: Gaussians
) -> dict[str, Doubles]:
    first = logits.argmax(axis=1)
    cosine = np.einsum("qd,qd->q", texts.mean, items.mean[first]).astype(np.float64)
    return {
        CONFIDENCE: confidence,
        RAW: sigmoid(logits.max(axis=1)),
        COSINE: cosine,
        CONSISTENCY: top_1_consistency(texts, items),
        MARGIN: adversarial_margin(texts, items),
    }


def _telling(scores: dict[str, Doubles], right: Mask, groups: npt.NDArray[np.int64]) -> Figures:
    figures: Figures = {"first results": len(right), "right": int(right.sum())}
    if min(int(right.sum()), int((~right).sum())) < MIN_OF_EACH:
        return figures | {"verdict": "too few to tell"}
    figures["scores"] = {
        name: {
            "auroc": _with_interval(auroc, values, right, groups),
            "e-aurc": _with_interval(excess_aurc, values, right, groups),
            "risk": _risk_curve(values, right),
        }
        for name, values in scores.items()
    }
    figures["differences of AUROC"] = {
        name: _difference(auroc, scores[CONFIDENCE], values, right, groups)
        for name, values in scores.items()
        if name != CONFIDENCE
    }
    figures["verdict"] = _verdict(figures["differences of AUROC"][COSINE])
    return figures


def _verdict(difference: Figures) -> str:
    low, high = difference["interval"]
    if low > 0:
        return "beats"
    return "loses to" if high < 0 else "cannot be told from"


def _risk_curve(values: Doubles, right: Mask, n_points: int = 100) -> list[list[float]]:
    """[coverage, share of wrong first results among the best-scored] at some coverages."""
    order = np.argsort(-values, kind="stable")
    risk = np.cumsum(~right[order]) / np.arange(1, len(right) + 1)
    at = np.unique(np.linspace(math.ceil(0.02 * len(right)), len(right), n_points).astype(int))
    return [[float(n / len(right)), float(risk[n - 1])] for n in at]


def coverage_table(
    model: ConfidenceModel,
    photos: Photos,
    queried: npt.NDArray[np.int64],
    texts: Gaussians,
    owner: npt.NDArray[np.int64],
    line: MatchLogit,
    sizes: Sequence[int] = (50, 200, 1000),
    *,
    coverage: float = 0.9,
    seed: int = 0,
) -> list[Figures]:
    """What cutoffs of n pairs promise and hold, for texts [T] of the photos owner [T].

    queried: the rows of photos that queries may be about; the gallery is all of them. Pairs for the
    cutoff and for the test share no photo: one caption a photo while there are enough, else all of
    fewer photos. Bounds and lengths are those of one split, shares those of `N_SPLITS`.
    """
    logits = match_logits(line, texts, photos.gaussians)
    evidence = gallery_evidence(logits, texts.uncertainty, photos.ids)
    match = model.of("text").match
    probabilities = None if match is None else match_probabilities(match, evidence)
    target = logits[np.arange(len(owner)), owner]
    scores = target_scores(probabilities, evidence, target)
    rank = 1 + (logits > target[:, None]).sum(axis=1)
    table = []
    for n_pairs in sizes:
        splits = [
            split
            for number in range(N_SPLITS)
            if (split := _split(queried, owner, n_pairs, np.random.default_rng([seed, number])))
        ]
        for mode in MODES if splits else ():
            held = []
            for pairs, test in splits:
                cutoff = fit_cutoff(scores[pairs])
                threshold = None if cutoff is None else cutoff.threshold(coverage, mode)
                if threshold is not None:
                    held.append(float((scores[test] <= threshold).mean()))
            pairs, test = splits[0]
            cutoff = fit_cutoff(scores[pairs])
            threshold = None if cutoff is None else cutoff.threshold(coverage, mode)
            if threshold is None:
                continue
            length = cutoff_sizes(probabilities, evidence, threshold)[test]
            hits = int((rank[test] <= length).sum())
            # The shortest fixed list that holds as many targets as these lists did.
            fixed = int(np.sort(rank[test])[max(hits, 1) - 1])
            table.append(
                {
                    "pairs": n_pairs,
                    "mode": mode,
                    "promised": coverage,
                    "tested": len(test),
                    "coverage": hits / len(test),
                    "interval": list(clopper_pearson(hits, len(test))),
                    "median length": float(np.median(length)),
                    "mean length": float(np.mean(length)),
                    "fixed rank of equal coverage": fixed,
                    "splits": len(held),
                    "mean of splits": float(np.mean(held)),
                    "share of splits below": float(np.mean(np.array(held) < coverage)),
                }
            )
    return table


def _split(
    queried: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    n_pairs: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Rows of n pairs and rows to test on, of different photos; None where there are too few."""
    rows_of = {int(photo): np.flatnonzero(owner == photo) for photo in queried}
    photos = [photo for photo in rng.permutation(queried).tolist() if rows_of[photo].size]
    if n_pairs <= len(photos) / 2:
        chosen = photos[:n_pairs]
        pairs = np.array([rng.choice(rows_of[photo]) for photo in chosen])
    else:
        chosen, found = [], 0
        for photo in photos:
            if found >= n_pairs:
                break
            chosen.append(photo)
            found += rows_of[photo].size
        pairs = np.concatenate([rows_of[photo] for photo in chosen])[:n_pairs]
        if len(pairs) < n_pairs:
            return None
    test = [rows_of[photo] for photo in photos[len(chosen) :]]
    return (pairs, np.concatenate(test)) if test else None


Statistic = Callable[[Doubles, Mask], float]


def _with_interval(
    statistic: Statistic, values: Doubles, label: Mask, groups: npt.NDArray[np.int64]
) -> Figures:
    return {
        "value": statistic(values, label),
        "interval": list(
            bootstrap_interval(
                lambda rows: statistic(values[rows], label[rows]), groups, n_resamples=N_RESAMPLES
            )
        ),
    }


def _difference(
    statistic: Statistic,
    ours: Doubles,
    other: Doubles,
    label: Mask,
    groups: npt.NDArray[np.int64],
) -> Figures:
    def difference(rows: npt.NDArray[np.int64]) -> float:
        return statistic(ours[rows], label[rows]) - statistic(other[rows], label[rows])

    return {
        "value": difference(np.arange(len(label))),
        "interval": list(bootstrap_interval(difference, groups, n_resamples=N_RESAMPLES)),
    }
