"""What `Gaussians` admits, and that it stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from prolip_search.errors import DimensionMismatch, InvalidGaussians
from prolip_search.gaussians import Gaussians
from tests.conftest import make_gaussians
from tests.strategies import gaussians


@given(gaussians())
def test_rows_and_concatenation_give_back_the_same_gaussians(some: Gaussians) -> None:
    again = Gaussians.concatenate([some[i] for i in range(len(some))])
    np.testing.assert_array_equal(again.mean, some.mean)
    np.testing.assert_array_equal(again.log_variance, some.log_variance)
    np.testing.assert_allclose(some.uncertainty, np.exp(some.log_variance).sum(1))


def test_arrays_cannot_be_changed_from_inside_or_outside() -> None:
    mean = np.eye(2, dtype=np.float32)
    some = Gaussians(mean, np.zeros((2, 2), np.float32))
    mean[0, 0] = 5
    assert some.mean[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        some.mean[0, 0] = 5


@pytest.mark.parametrize(
    ("mean", "log_variance", "says"),
    [
        ([[1.0, 0.0]], [[0.0]], "differ in shape"),
        ([1.0, 0.0], [0.0, 0.0], r"\[N, D\]"),
        ([[np.nan, 0.0]], [[0.0, 0.0]], "NaN"),
        ([[1.0, 0.0]], [[0.0, np.inf]], "NaN or infinity"),
        ([[3.0, 0.0]], [[0.0, 0.0]], "unit length"),
        ([[1.0, 0.0]], [[0.0, 61.0]], "within ±60"),
    ],
)
def test_what_is_not_gaussian_is_refused(mean: object, log_variance: object, says: str) -> None:
    with pytest.raises(InvalidGaussians, match=says):
        Gaussians(np.array(mean), np.array(log_variance))


def test_a_raw_mean_without_direction_is_refused() -> None:
    with pytest.raises(InvalidGaussians, match="no direction"):
        Gaussians.from_raw([[0.0, 0.0]], [[0.0, 0.0]])


def test_raw_means_are_normalised_and_log_variances_kept() -> None:
    some = Gaussians.from_raw([[3.0, 4.0]], [[-5.0, -6.0]])
    np.testing.assert_allclose(some.mean, [[0.6, 0.8]])
    np.testing.assert_array_equal(some.log_variance, [[-5.0, -6.0]])


def test_other_dimensions_do_not_concatenate() -> None:
    with pytest.raises(DimensionMismatch, match="expected 2, found 3") as caught:
        Gaussians.concatenate([make_gaussians(1, 2, seed=0), make_gaussians(1, 3, seed=0)])
    assert (caught.value.expected, caught.value.found) == (2, 3)


def test_no_rows_are_valid_gaussians() -> None:
    none = Gaussians(np.empty((0, 4)), np.empty((0, 4)))
    assert len(none) == 0
    assert none.dim == 4
    assert none.uncertainty.shape == (0,)
