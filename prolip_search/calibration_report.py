"""What there is of a calibration, in numbers for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prolip_search.confidence.calibration import ConfidenceModel, KindModel, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class KindReport:
    """What is calibrated for one kind of query, and how well.

    n_judged, n_queries, n_pairs: labels of this index. has_none, has_cutoff, counts_matches: what
    there are numbers for.
    smece: error of confidences on queries they were not fitted on, floor: that of perfect ones.
    """

    status: Status
    n_judged: int
    n_queries: int
    n_pairs: int
    has_none: bool
    has_cutoff: bool
    counts_matches: bool
    smece: float | None
    floor: float | None
    brier: float | None
    brier_raw: float | None
    auroc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """What one `calibrate` did, and what there is now. kinds: by kind of query.

    n_recorded: labels that were new. notes: what a person should know, in sentences.
    """

    n_recorded: int
    notes: tuple[str, ...]
    kinds: Mapping[str, KindReport]
    fitted_at: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON's types only; a stable schema."""
        return {
            "n_recorded": self.n_recorded,
            "notes": list(self.notes),
            "fitted_at": self.fitted_at,
            "kinds": {kind: asdict(report) for kind, report in self.kinds.items()},
        }


def calibration_report(
    model: ConfidenceModel | None, *, n_recorded: int = 0, notes: Sequence[str] = ()
) -> CalibrationReport:
    """What a calibration holds; for texts and for pictures, whether there is anything or not."""
    kinds = {}
    for name in ("text", "image"):
        kind = KindModel() if model is None else model.of(name)
        quality = kind.quality
        kinds[name] = KindReport(
            status=kind.status,
            n_judged=kind.n_judged,
            n_queries=kind.n_queries,
            n_pairs=kind.n_pairs,
            has_none=kind.none is not None,
            has_cutoff=kind.cutoff is not None and kind.cutoff.threshold(0.9) is not None,
            counts_matches=kind.expects_matches,
            smece=None if quality is None else quality.smece,
            floor=None if quality is None else quality.smece_floor,
            brier=None if quality is None else quality.brier,
            brier_raw=None if quality is None else quality.brier_raw,
            auroc=None if quality is None else quality.auroc,
        )
    return CalibrationReport(
        n_recorded=n_recorded,
        notes=tuple(notes),
        kinds=kinds,
        fitted_at=None if model is None else model.fitted_at,
    )
