"""Whether anything matches at all."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.confidence.absence import BEST_CONFIDENCE, NONE_FEATURES, NoneModel

N = len(NONE_FEATURES)


@given(st.floats(1e-9, 1.0), st.floats(-30, 30))
def test_nothing_matches_no_more_surely_than_the_first_result_does_not(
    best: float, intercept: float
) -> None:
    model = NoneModel(np.zeros(N), np.ones(N), np.zeros(N), intercept, 100)
    features = np.zeros((1, N))
    features[0, BEST_CONFIDENCE] = np.log(best)
    probability = float(model.probability(features)[0])
    assert 0 <= probability <= 1 - best + 1e-12
    assert probability <= 1 / (1 + np.exp(-intercept)) + 1e-12
