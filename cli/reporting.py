"""A calibration in words: what is known, how well, and what it would take to know more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prolip_search.calibration_report import CalibrationReport, KindReport

NAMES = {"text": "words", "image": "pictures"}


def kind_lines(report: CalibrationReport) -> Iterator[str]:
    """For each kind of query, in a few words, how far its confidences may be trusted."""
    if all(kind.status == "none" and not kind.n_pairs for kind in report.kinds.values()):
        yield "not calibrated: scores are the encoder's own"
        return
    for name, kind in report.kinds.items():
        yield f"asked with {NAMES.get(name, name)}: {_status(kind)}"


def report_lines(report: CalibrationReport) -> Iterator[str]:
    """Everything that there is to say of a calibration, one fact on each line."""
    for name, kind in report.kinds.items():
        if kind.status == "none" and not kind.n_pairs and name != "text":
            continue
        yield f"asked with {NAMES.get(name, name)}"
        yield f"  confidence   {_status(kind)}"
        if kind.smece is not None and kind.floor is not None:
            yield (
                f"  error        {kind.smece:.3f} on queries it was not fitted on "
                f"(perfect confidences would show {kind.floor:.3f})"
            )
        if kind.brier is not None and kind.brier_raw is not None and kind.auroc is not None:
            yield (
                f"  Brier score  {kind.brier:.3f} (the encoder's own: {kind.brier_raw:.3f}), "
                f"AUROC {kind.auroc:.3f}"
            )
        yield f"  nothing here {_none(kind)}"
        yield f"  the line     {_cutoff(kind)}"


def _status(kind: KindReport) -> str:
    judged = f"{kind.n_judged:,} judgements of {kind.n_queries:,} queries"
    if kind.status == "own":
        return f"calibrated on {judged}"
    if kind.status == "default":
        return "calibrated elsewhere" + (f", and on {judged} here" if kind.n_judged else "")
    few = f"; {judged} so far, and it takes 50, 5 of them yes and 5 no" if kind.n_judged else ""
    return f"not calibrated{few}"


def _none(kind: KindReport) -> str:
    if kind.has_none:
        return "the chance that nothing matches is told"
    return "is not told: it takes 50 judged queries, 10 of which nothing matches"


def _cutoff(kind: KindReport) -> str:
    if kind.has_cutoff:
        return f"is drawn, from {kind.n_pairs:,} pairs of an image and its caption"
    return f"is not drawn: it takes 22 pairs of an image and its caption, not {kind.n_pairs}"
