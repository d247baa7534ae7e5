"""Which of two things is the more general one."""

from __future__ import annotations

import numpy as np
import pytest

from prolip_search.confidence.relation import relation, relation_threshold


@pytest.mark.parametrize(
    ("inclusion", "confidence", "expected"),
    [
        (32.0, 0.9, "item_more_specific"),
        (-32.0, 0.9, "item_more_general"),
        (32.0, 0.49, "unclear"),
        (12.0, 0.9, "unclear"),
        (0.0, 0.9, "unclear"),
    ],
)
def test_a_direction_needs_a_match_and_more_than_chance(
    inclusion: float, confidence: float, expected: str
) -> None:
    assert relation(inclusion, confidence, dim=16, threshold=1.0) == expected


def test_chance_is_the_ninetieth_percentile_of_random_pairs() -> None:
    inclusions = np.array([-1, 1]).repeat(50) * np.linspace(0.1, 10, 100)
    assert relation_threshold(inclusions, 4) == pytest.approx(np.quantile(abs(inclusions), 0.9) / 4)
    with pytest.raises(ValueError, match="at least one"):
        relation_threshold([], 4)
