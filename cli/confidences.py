"""Probabilities in words and bars: as precise as the calibration is, and never more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prolip_search.results import Calibration, SearchResult, SearchResults

WIDE_BAND = 0.2  # from here on a confidence is only roughly known
FAINT = 0.2  # below it a result is dimmed
PERHAPS_NOTHING, PROBABLY_NOTHING = 0.5, 0.8
# Percent are shown in steps of 1, 5 or 10: from so many judgements on.
STEPS = ((1000, 1), (200, 5), (0, 10))


def step_of(calibration: Calibration) -> int:
    """In steps of how many percent a probability may be told."""
    return next(step for least, step in STEPS if calibration.n_judged >= least)


def percent(probability: float, step: int, *, space: str = "") -> str:
    """ "95%", "<5%", ">95%": nothing is told to be certain."""
    rounded = step * round(100 * probability / step)
    if rounded <= 0:
        return f"<{step}{space}%"
    return f">{100 - step}{space}%" if rounded >= 100 else f"{rounded}{space}%"


def shown_confidence(result: SearchResult, calibration: Calibration) -> str:
    """The confidence of a result, with a ~ where it is only roughly known; "" without one."""
    if result.confidence is None:
        return ""
    text = percent(result.confidence, step_of(calibration))
    return f"~{text}" if text[0].isdigit() and is_rough(result, calibration) else text


def is_rough(result: SearchResult, calibration: Calibration) -> bool:
    """Whether a confidence is of another collection, or its band wider than 20 points."""
    low, high = result.confidence_low, result.confidence_high
    is_wide = low is not None and high is not None and high - low > WIDE_BAND
    return is_wide or calibration.status == "default"


def is_probably_nothing(results: SearchResults) -> bool:
    """Whether nothing in the collection matches, as far as can be told."""
    return (results.none_probability or 0.0) >= PROBABLY_NOTHING


def none_words(results: SearchResults) -> str | None:
    """What stands above a list that perhaps holds no match."""
    if results.none_probability is None or results.offset > 0:
        return None
    if is_probably_nothing(results):
        return "Probably nothing here matches (closest shown)."
    return "Perhaps nothing here matches." if results.none_probability >= PERHAPS_NOTHING else None


def line_words(results: SearchResults) -> str:
    """What the line at the cutoff says."""
    return f"the image you describe is above this line in {_often(results)}"


def footer_words(results: SearchResults) -> list[str]:
    """What the numbers of an answer are, in short phrases."""
    calibration, parts = results.calibration, []
    step = step_of(calibration)
    about = "~" if calibration.status == "default" else ""
    if results.none_probability is not None:
        chance = percent(results.none_probability, step, space=" ")
        parts.append(f"{about if chance[0].isdigit() else ''}{chance} chance that nothing matches")
    if results.expected_matches is not None:
        n = results.expected_matches
        parts.append(f"about {_count(n)} match ({_count(n / 2)} to {_count(2 * n)})")
    if results.cutoff is not None and results.cutoff > results.offset + len(results):
        n = results.cutoff
        parts.append(f"the image you describe is among the first {n:,} in {_often(results)}")
    if results.query.is_broad:
        parts.append("a broad query")
    parts.append(calibration_words(calibration))
    return parts


def calibration_words(calibration: Calibration) -> str:
    """How far confidences may be trusted."""
    if calibration.status == "none":
        return "score (uncalibrated): the encoder's own match probability"
    error = "" if calibration.smece is None else f" (error {calibration.smece:.2f})"
    if calibration.status == "own":
        return f"calibrated on {calibration.n_judged:,} judgements{error}"
    if calibration.n_judged:
        return f"calibrated elsewhere, and on {calibration.n_judged:,} judgements here"
    return "calibrated elsewhere"


def _often(results: SearchResults) -> str:
    share = results.coverage or 0.9
    of = next((n for n in range(2, 100) if abs(share * n - round(share * n)) < 1e-9), 100)
    return f"{round(share * of)} of {of} searches"


def _count(n: float) -> str:
    """Two figures: more would claim too much."""
    return f"{n:.2g}" if n < 10 else f"{int(float(f'{n:.2g}')):,}"
