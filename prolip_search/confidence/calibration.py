"""A calibration: everything that was learnt about one encoder on one index, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.absence import NoneModel
from prolip_search.confidence.cutoff import Cutoff
from prolip_search.confidence.match import MatchModel

Doubles = NDArray[np.float64]
Status = Literal["own", "default", "none"]

FORMAT = 1
# Of stored queries, for a percentile to mean something.
MIN_QUERIES_FOR_PERCENTILE = 100
# A broad query is one from this percentile on, where uncertainty and matches go together at all.
BROAD_PERCENTILE = 90.0
MIN_BROAD_CORRELATION = 0.3


@dataclass(frozen=True, eq=False)
class UncertaintyScale:
    """How uncertain stored queries were. quantiles [101], ascending: their percentiles 0 to 100.

    correlation: Spearman's, of u with the expected matches; NaN where it is not known.
    """

    quantiles: Doubles
    correlation: float

    def percentile(self, uncertainty: Doubles) -> Doubles:
        """The rank among the stored queries, 0 to 100, of u [Q] -> [Q]."""
        ranks: Doubles = np.interp(uncertainty, self.quantiles, np.arange(101.0))
        return ranks

    def is_broad(self, uncertainty: Doubles) -> NDArray[np.bool_]:
        """Whether a query may be called broad: [Q] -> [Q]."""
        tells = self.correlation >= MIN_BROAD_CORRELATION  # False for NaN
        broad: NDArray[np.bool_] = (self.percentile(uncertainty) >= BROAD_PERCENTILE) & tells
        return broad


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well the confidences did on queries they were not fitted on (grouped cross-validation).

    smece and its floor (what a perfect predictor would show), brier and that of the raw model
    probability, auroc; rows weighted as in the fit, auroc over rows alike.
    """

    smece: float
    smece_floor: float
    brier: float
    brier_raw: float
    auroc: float
    folds: int


@dataclass(frozen=True, kw_only=True, eq=False)
class KindModel:
    """What is known for one kind of query. A kind without labels never borrows another's.

    match: None for status "none". expects_matches: whether the labels were enough to count by.
    cutoff: of pairs scored with `match`, or by their logits where that is None.
    n_judged, n_queries, n_pairs: this index's own labels.
    """

    status: Status = "none"
    match: MatchModel | None = None
    none: NoneModel | None = None
    cutoff: Cutoff | None = None
    uncertainty: UncertaintyScale | None = None
    quality: Quality | None = None
    expects_matches: bool = False
    n_judged: int = 0
    n_queries: int = 0
    n_pairs: int = 0


UNCALIBRATED = KindModel()


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfidenceModel:
    """A calibration of one encoder on one index.

    fingerprint: 64 hex digits, of the encoder; with another encoder nothing here means anything.
    kinds: by the kind of the query, "text" or "image". n_items: N when it was fitted.
    relation_threshold: of |H| / D, see `relation`. fitted_at: ISO 8601, or None.
    """

    fingerprint: str
    kinds: Mapping[str, KindModel] = field(default_factory=dict)
    n_items: int = 0
    relation_threshold: float | None = None
    fitted_at: str | None = None

    def of(self, kind: str) -> KindModel:
        """What is known for a kind of query; status "none" and nothing else for an unknown one."""
        return self.kinds.get(kind, UNCALIBRATED)

    def for_encoder(self, fingerprint: str) -> ConfidenceModel | None:
        """This calibration if it was made with that encoder, else None: parameters do not carry."""
        return self if fingerprint == self.fingerprint else None

    def to_json(self) -> dict[str, Any]:
        """JSON's types only; `from_json` gives back an equal calibration."""
        from prolip_search.confidence.serialization import model_to_json

        return model_to_json(self)

    @classmethod
    def from_json(cls, content: object) -> ConfidenceModel:
        """What `to_json` wrote. Raises ValueError, with the reason, for anything else."""
        from prolip_search.confidence.serialization import model_from_json

        return model_from_json(content)
