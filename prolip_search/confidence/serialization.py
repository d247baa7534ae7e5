"""Calibrations as JSON, checked field by field when they come back: files can be damaged."""

from __future__ import annotations

import math
import re
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.absence import NONE_FEATURES, NoneModel
from prolip_search.confidence.calibration import (
    FORMAT,
    ConfidenceModel,
    KindModel,
    Quality,
    Status,
    UncertaintyScale,
)
from prolip_search.confidence.cutoff import LARGEST_SAMPLE, Cutoff
from prolip_search.confidence.features import MATCH_FEATURES
from prolip_search.confidence.match import MatchModel

Doubles = NDArray[np.float64]
Content = dict[str, Any]

MAX_KINDS = 8
MAX_COUNT = 1 << 40
N_MATCH, N_NONE = len(MATCH_FEATURES), len(NONE_FEATURES)


def model_to_json(model: ConfidenceModel) -> Content:
    """See ConfidenceModel.to_json."""
    return {
        "format": FORMAT,
        "encoder": model.fingerprint,
        "n_items": model.n_items,
        "relation_threshold": model.relation_threshold,
        "fitted_at": model.fitted_at,
        "kinds": {name: _kind_to_json(kind) for name, kind in sorted(model.kinds.items())},
    }


def model_from_json(content: object) -> ConfidenceModel:
    """See ConfidenceModel.from_json."""
    top = _object(content, "the calibration")
    if top.get("format") != FORMAT or isinstance(top.get("format"), bool):
        raise ValueError(f"its format is {top.get('format')!r}, and this version reads {FORMAT}")
    fingerprint = top.get("encoder")
    if not isinstance(fingerprint, str) or not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise ValueError("encoder is no fingerprint of 64 hex digits")
    fitted_at = top.get("fitted_at")
    if fitted_at is not None and (not isinstance(fitted_at, str) or len(fitted_at) > 64):
        raise ValueError("fitted_at is no time")
    kinds = _object(top.get("kinds"), "kinds")
    if len(kinds) > MAX_KINDS:
        raise ValueError(f"it has {len(kinds)} kinds of query, more than {MAX_KINDS}")
    threshold = top.get("relation_threshold")
    return ConfidenceModel(
        fingerprint=fingerprint,
        n_items=_count(top, "n_items"),
        relation_threshold=None if threshold is None else _number(top, "relation_threshold", 0.0),
        fitted_at=fitted_at,
        kinds={name: _kind_from_json(_object(kind, name)) for name, kind in kinds.items()},
    )


def _kind_to_json(kind: KindModel) -> Content:
    match, none, scale, quality = kind.match, kind.none, kind.uncertainty, kind.quality
    return {
        "status": kind.status,
        "n_judged": kind.n_judged,
        "n_queries": kind.n_queries,
        "n_pairs": kind.n_pairs,
        "expects_matches": kind.expects_matches,
        "match": None
        if match is None
        else {
            "center": match.center.tolist(),
            "scale": match.scale.tolist(),
            "weights": match.weights.tolist(),
            "intercept": match.intercept,
            "covariance": match.covariance.ravel().tolist(),
            "n_judged": match.n_judged,
        },
        "none": None
        if none is None
        else {
            "center": none.center.tolist(),
            "scale": none.scale.tolist(),
            "weights": none.weights.tolist(),
            "intercept": none.intercept,
            "n_queries": none.n_queries,
            "status": none.status,
        },
        "cutoff": None if kind.cutoff is None else kind.cutoff.scores.tolist(),
        "uncertainty": None
        if scale is None
        else {
            "quantiles": scale.quantiles.tolist(),
            "correlation": scale.correlation if math.isfinite(scale.correlation) else None,
        },
        "quality": None
        if quality is None
        else {
            "smece": quality.smece,
            "smece_floor": quality.smece_floor,
            "brier": quality.brier,
            "brier_raw": quality.brier_raw,
            "auroc": quality.auroc,
            "folds": quality.folds,
        },
    }


def _kind_from_json(content: Content) -> KindModel:
    status = content.get("status")
    if status not in get_args(Status):
        raise ValueError(f"status is {status!r}")
    match = None if content.get("match") is None else _match(_object(content["match"], "match"))
    if (match is None) != (status == "none"):
        raise ValueError(f"status {status} and the match model contradict each other")
    none = None if content.get("none") is None else _none(_object(content["none"], "none"))
    if none is not None and match is None:
        raise ValueError("a none model stands without a match model")
    expects_matches = content.get("expects_matches")
    if not isinstance(expects_matches, bool) or (expects_matches and match is None):
        raise ValueError("expects_matches is neither true nor false, or stands without a model")
    return KindModel(
        status=cast("Status", status),
        match=match,
        none=none,
        cutoff=None if content.get("cutoff") is None else _cutoff(content),
        uncertainty=None if content.get("uncertainty") is None else _scale(content),
        quality=None if content.get("quality") is None else _quality(content),
        expects_matches=expects_matches,
        n_judged=_count(content, "n_judged"),
        n_queries=_count(content, "n_queries"),
        n_pairs=_count(content, "n_pairs"),
    )


def _match(content: Content) -> MatchModel:
    weights = _numbers(content, "weights", N_MATCH)
    if weights[0] < 0:
        raise ValueError("the weight of the match logit is negative")
    return MatchModel(
        center=_numbers(content, "center", N_MATCH),
        scale=_scales(content, N_MATCH),
        weights=weights,
        intercept=_number(content, "intercept"),
        covariance=_numbers(content, "covariance", (N_MATCH + 1) ** 2).reshape(N_MATCH + 1, -1),
        n_judged=_count(content, "n_judged"),
    )


def _none(content: Content) -> NoneModel:
    status = content.get("status")
    if status not in ("own", "default"):
        raise ValueError(f"the none model's status is {status!r}")
    return NoneModel(
        center=_numbers(content, "center", N_NONE),
        scale=_scales(content, N_NONE),
        weights=_numbers(content, "weights", N_NONE),
        intercept=_number(content, "intercept"),
        n_queries=_count(content, "n_queries"),
        status=status,
    )


def _cutoff(content: Content) -> Cutoff:
    scores = content["cutoff"]
    if not isinstance(scores, list) or not 1 <= len(scores) <= LARGEST_SAMPLE:
        raise ValueError(f"cutoff is no list of 1 to {LARGEST_SAMPLE} scores")
    values = _numbers(content, "cutoff", len(scores))
    if (np.diff(values) < 0).any():
        raise ValueError("the scores of the cutoff are not sorted")
    return Cutoff(values)


def _scale(content: Content) -> UncertaintyScale:
    scale = _object(content["uncertainty"], "uncertainty")
    quantiles = _numbers(scale, "quantiles", 101)
    if (np.diff(quantiles) < 0).any():
        raise ValueError("the quantiles of the uncertainty are not sorted")
    correlation = scale.get("correlation")
    return UncertaintyScale(
        quantiles, float("nan") if correlation is None else _number(scale, "correlation", -1.0, 1.0)
    )


def _quality(content: Content) -> Quality:
    quality = _object(content["quality"], "quality")
    names = ("smece", "smece_floor", "brier", "brier_raw", "auroc")
    values = {name: _number(quality, name, 0.0, 1.0) for name in names}
    return Quality(**values, folds=_count(quality, "folds"))


def _object(value: object, name: str) -> Content:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} is no JSON object")
    return value


def _number(content: Content, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    value = content.get(name)
    # bool is an int to Python and a mistake to us; 1e400 is infinite, and 10**400 no float at all.
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValueError(f"{name} is missing or no number")
    if not low <= value <= high:  # false for NaN
        raise ValueError(f"{name} is {value}")
    return float(value)


def _count(content: Content, name: str) -> int:
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{name} is missing or no count")
    return value


def _numbers(content: Content, name: str, n: int) -> Doubles:
    values = content.get(name)
    if not isinstance(values, list) or len(values) != n:
        raise ValueError(f"{name} is no list of {n} numbers")
    return np.array([_number({name: value}, name) for value in values])


def _scales(content: Content, n: int) -> Doubles:
    scale = _numbers(content, "scale", n)
    if (scale <= 0).any():
        raise ValueError("a scale is not positive")
    return scale
