"""What a confidence is computed from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.background import QueryBackground

Doubles = NDArray[np.float64]

# The first is the result's own; the others are the query's and the same for all its results.
MATCH_FEATURES = (
    "logit",
    "log_query_uncertainty",
    "evidence",
    "top_1_percent",
    "top_5_percent",
    "spread",
)


def query_context(uncertainty: Doubles, background: QueryBackground) -> Doubles:
    """The features that all results of a query share: u [Q] > 0 -> [Q, 5]."""
    return np.stack(
        [
            np.log(uncertainty),
            background.evidence,
            background.top_1_percent,
            background.top_5_percent,
            background.spread,
        ],
        axis=1,
    )


def match_features(
    logits: Doubles, query_uncertainty: Doubles, background: QueryBackground
) -> Doubles:
    """φ of results, row by row with their queries: ℓ [n], u [n], a background of n rows -> [n, 6].

    The item's own uncertainty is inside ℓ and no feature of its own, so that for one query the
    confidence falls strictly with CSD.
    """
    return np.concatenate([logits[:, None], query_context(query_uncertainty, background)], axis=1)
