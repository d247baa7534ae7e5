"""Training-free measures of certainty, on cases that can be seen through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolip_search.gaussians import Gaussians
from prolip_search.train.calibration.baselines import (
    adversarial_margin,
    top_1_consistency,
    top_1_cosine,
)
from tests.conftest import make_gaussians


def at(*angles: float, level: float = -12.0) -> Gaussians:
    """Gaussians of the plane at some angles, in degrees."""
    radians = np.radians(angles)
    mean = np.stack([np.cos(radians), np.sin(radians)], axis=1)
    return Gaussians.from_raw(mean, np.full(mean.shape, level))


def test_the_first_by_cosine() -> None:
    first, cosine = top_1_cosine(at(10, 80), at(0, 90))
    assert first.tolist() == [0, 1]
    assert cosine == pytest.approx(np.cos(np.radians([10, 10])), abs=1e-6)


def test_the_margin_is_the_distance_to_where_another_item_would_win() -> None:
    # Between items at 0° and 90° the border is the diagonal.
    margin = adversarial_margin(at(0, 45, 30), at(0, 90))
    assert margin == pytest.approx([np.sin(np.radians(a)) for a in (45, 0, 15)], abs=1e-6)
    assert adversarial_margin(at(0), at(0)).tolist() == [0.0]
    assert adversarial_margin(at(0), at(5, 5)).tolist() == [0.0]


@given(st.integers(0, 10_000))
def test_moving_the_query_by_less_than_the_margin_changes_nothing(seed: int) -> None:
    queries, items = make_gaussians(4, 6, seed), make_gaussians(9, 6, seed + 1)
    margin = adversarial_margin(queries, items)
    first, _ = top_1_cosine(queries, items)
    rng = np.random.default_rng(seed)
    step = rng.normal(size=queries.mean.shape)
    step *= 0.99 * margin[:, None] / np.linalg.norm(step, axis=1, keepdims=True)
    assert ((queries.mean + step) @ items.mean.T).argmax(axis=1).tolist() == first.tolist()


def test_consistency_falls_as_uncertainty_grows() -> None:
    items = at(0, 60, 120)
    sure, unsure = (
        top_1_consistency(at(20, level=level), items, n_draws=200) for level in (-12.0, 1.0)
    )
    assert sure.tolist() == [1.0]
    assert 0.2 < unsure[0] < 0.9
    assert top_1_consistency(at(20, level=1.0), items, n_draws=200).tolist() == unsure.tolist()
