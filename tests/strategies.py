"""Hypothesis strategies for the things this project is about."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prolip_search.gaussians import Gaussians

SMALL_N = st.integers(1, 6)
SMALL_DIM = st.integers(1, 9)


@st.composite
def gaussians(
    draw: st.DrawFn,
    *,
    n: st.SearchStrategy[int] = SMALL_N,
    dim: st.SearchStrategy[int] = SMALL_DIM,
    log_variance: tuple[float, float] = (-30.0, 15.0),
) -> Gaussians:
    """Valid Gaussians of drawn size, equal rows and extreme variances included."""
    shape = (draw(n), draw(dim))
    raw = draw(hnp.arrays(np.float64, shape, elements=st.floats(-1, 1, width=32)))
    # A zero row has no direction; the first axis stands in for it.
    raw[np.linalg.norm(raw, axis=1) < 1e-3] = np.eye(1, shape[1])[0]
    variances = draw(hnp.arrays(np.float32, shape, elements=st.floats(*log_variance, width=32)))
    return Gaussians.from_raw(raw, variances)


@st.composite
def gaussian_pairs(
    draw: st.DrawFn,
    *,
    same_n: bool = False,
    log_variance: tuple[float, float] = (-30.0, 15.0),
) -> tuple[Gaussians, Gaussians]:
    """Two sets of Gaussians of one dimension; with same_n, row for row."""
    dim = st.just(draw(SMALL_DIM))
    n = draw(SMALL_N)
    second_n = st.just(n) if same_n else SMALL_N
    return (
        draw(gaussians(n=st.just(n), dim=dim, log_variance=log_variance)),
        draw(gaussians(n=second_n, dim=dim, log_variance=log_variance)),
    )
