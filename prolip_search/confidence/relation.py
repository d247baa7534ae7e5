"""Which of two things that match is the more general one: a direction, without a probability."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Relation = Literal["item_more_specific", "item_more_general", "unclear"]

MIN_CONFIDENCE = 0.5


def relation_threshold(inclusions: ArrayLike, dim: int) -> float:
    """An encoder's threshold: the 90th percentile of |H| / D over random pairs, H [n] in nats.

    Raises ValueError for no pairs.
    """
    values = np.abs(np.asarray(inclusions, dtype=np.float64))
    if values.size == 0:
        raise ValueError("A threshold needs the inclusion of at least one random pair.")
    return float(np.quantile(values, 0.9)) / dim


def relation(inclusion: float, confidence: float, *, dim: int, threshold: float) -> Relation:
    """From the sign of H(item ⊂ query), where the pair matches and H is larger than by chance.

    A direction only makes sense between things that match, so below confidence 0.5 it is unclear.
    """
    if confidence < MIN_CONFIDENCE or abs(inclusion) / dim <= threshold:
        return "unclear"
    return "item_more_specific" if inclusion > 0 else "item_more_general"
