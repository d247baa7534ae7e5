"""Intervals cover what they should, and groups are drawn whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prolip_search.train.evaluation.estimates import estimate, mean_estimate


def test_the_quick_mean_agrees_with_the_general_bootstrap() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=300), rng.integers(0, 60, 300)
    quick = mean_estimate(values, groups)
    general = estimate(lambda rows: float(values[rows].mean()), groups)
    assert quick.value == pytest.approx(general.value) == pytest.approx(values.mean())
    assert quick.low == pytest.approx(general.low, abs=0.02)
    assert quick.high == pytest.approx(general.high, abs=0.02)


def test_the_interval_of_a_mean_has_the_width_of_the_central_limit() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    found = mean_estimate(values)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert found.high - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.low == pytest.approx(half, rel=0.15)


def test_five_copies_of_a_photo_are_not_five_photos() -> None:
    values = np.random.default_rng(2).normal(size=200)
    alone = mean_estimate(values)
    copied = mean_estimate(np.repeat(values, 5), np.repeat(np.arange(200), 5))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=1e-9)
    assert mean_estimate(np.repeat(values, 5)).high - alone.value < 0.6 * (alone.high - alone.value)


def test_what_the_data_does_not_say_is_no_number() -> None:
    assert math.isnan(mean_estimate([]).value)
    unknown = estimate(lambda rows: float("nan"), [1, 2, 3])
    assert math.isnan(unknown.value)
    assert math.isnan(unknown.low)
    assert str(unknown) == "–"
    assert str(mean_estimate([1.0, 1.0])) == "1.000 [1.000, 1.000]"
