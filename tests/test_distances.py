"""The mathematics against outside truth, and the laws it must keep."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from numpy.typing import NDArray

from prolip_search import distances
from prolip_search.distances import Arrays, MatchLogit
from prolip_search.gaussians import Gaussians
from tests.conftest import make_gaussians
from tests.strategies import gaussian_pairs, gaussians

# Relative to max(1, |truth|). float64: 768 terms each rounded to 1e-16. float32: inputs themselves
# are rounded to 6e-8, and log-variances of ±60 turn that into 4e-6 of a variance.
FLOAT64_TOLERANCE = 1e-12
FLOAT32_TOLERANCE = 2e-5
DIMENSIONS = (1, 4, 64, 768)


def relative_error(found: Any, truth: NDArray[np.float64]) -> float:
    return float((np.abs(np.asarray(found) - truth) / np.maximum(1, np.abs(truth))).max())


@pytest.fixture(scope="module")
def truth(shared_reference: Path) -> dict[str, NDArray[np.float64]]:
    with np.load(shared_reference / "math_truth.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("as_torch", [False, True], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float64, FLOAT64_TOLERANCE), (np.float32, FLOAT32_TOLERANCE)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("dim", DIMENSIONS)
def test_agrees_with_eighty_digit_truth_in_all_regimes(
    truth: dict[str, NDArray[np.float64]], dim: int, dtype: Any, tolerance: float, as_torch: bool
) -> None:
    def of(name: str) -> Any:
        array = truth[f"D{dim}.{name}"].astype(dtype)
        return torch.from_numpy(array) if as_torch else array

    assert set(truth[f"D{dim}.regime"]) == {0, 1, 2, 3}
    first = Arrays(of("mu1"), of("logvar1"))
    second = Arrays(of("mu2"), of("logvar2"))
    found = {
        "u1": distances.uncertainty(first),
        "u2": distances.uncertainty(second),
        "csd": distances.csd_rows(first, second),
        "j12": distances.overlap_rows(first, second),
        "j21": distances.overlap_rows(second, first),
        "h12": distances.inclusion_rows(first, second),
        "kl1": distances.kl_to_prior(first),
        "kl2": distances.kl_to_prior(second),
    }
    pairwise = {
        "csd": distances.csd(first, second),
        "j12": distances.overlap(first, second),
        "h12": distances.inclusion(first, second),
    }
    errors = {name: relative_error(value, truth[f"D{dim}.{name}"]) for name, value in found.items()}
    errors |= {
        f"pairwise {name}": relative_error(value.diagonal(), truth[f"D{dim}.{name}"])
        for name, value in pairwise.items()
    }
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_match_logit_agrees_with_truth(truth: dict[str, NDArray[np.float64]], dim: int) -> None:
    match = MatchLogit(float(truth["logit_scale_exp"]), float(truth["logit_bias"]))
    found = match.logit(truth[f"D{dim}.csd"])
    assert relative_error(found, truth[f"D{dim}.match_logit"]) <= FLOAT64_TOLERANCE


def test_known_values_by_hand() -> None:
    narrow = Arrays(np.array([[1.0, 0.0]]), np.log([[0.1, 0.2]]))
    wide = Arrays(np.array([[0.0, 1.0]]), np.log([[0.4, 0.3]]))
    assert distances.csd(narrow, wide)[0, 0] == pytest.approx(2 + 0.3 + 0.7)
    assert distances.csd_rows(narrow, wide)[0] == pytest.approx(3.0)
    # log N(x; m, V) of two independent dimensions with V = a/2 + c and unit offsets
    expected = sum(-0.5 * (np.log(2 * np.pi * v) + 1 / v) for v in (0.45, 0.4))
    assert distances.membership_rows(narrow, wide)[0] == pytest.approx(expected)


def test_direction_and_trace_can_disagree() -> None:
    """The example of one dimension voting against the trace: H and u are two facts."""
    first = Arrays(np.array([[1.0, 0.0]]), np.log([[1e-6, 1.0]]))
    second = Arrays(np.array([[1.0, 0.0]]), np.log([[1e-3, 0.5]]))
    assert distances.inclusion_rows(first, second)[0] == pytest.approx(2.87, abs=0.01)
    assert distances.uncertainty(first)[0] > distances.uncertainty(second)[0]


@given(gaussian_pairs())
def test_pairwise_forms_equal_the_row_wise_ones(pair: tuple[Gaussians, Gaussians]) -> None:
    first, second = pair
    for name in ("csd", "overlap", "inclusion", "membership"):
        matrix = getattr(distances, name)(first, second)
        rows = getattr(distances, f"{name}_rows")
        assert matrix.shape == (len(first), len(second))
        for i, j in product(range(len(first)), range(len(second))):
            alone = rows(first[i], second[j])[0]
            assert matrix[i, j] == pytest.approx(alone, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("block_elements", [1, 10, 30], ids=["pairs", "both ways", "rows"])
def test_blocks_do_not_change_a_pairwise_result(
    block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_gaussians(7, 5, seed=0), make_gaussians(3, 5, seed=1)
    for name in ("overlap", "inclusion", "membership"):
        whole = getattr(distances, name)(first, second)
        with monkeypatch.context() as patch:
            patch.setattr(distances, "BLOCK_ELEMENTS", block_elements)
            np.testing.assert_array_equal(getattr(distances, name)(first, second), whole)


@pytest.mark.parametrize(("n_first", "n_second"), [(0, 2), (2, 0), (0, 0)])
def test_no_gaussians_make_no_pairs(n_first: int, n_second: int) -> None:
    some = make_gaussians(2, 5, seed=0)
    first, second = (Arrays(some.mean[:n], some.log_variance[:n]) for n in (n_first, n_second))
    assert distances.inclusion(first, second).shape == (n_first, n_second)


@given(gaussian_pairs())
def test_csd_is_symmetric_and_never_below_the_summed_uncertainties(
    pair: tuple[Gaussians, Gaussians],
) -> None:
    first, second = pair
    forward = distances.csd(first, second)
    np.testing.assert_allclose(forward, distances.csd(second, first).T, rtol=1e-5, atol=1e-5)
    assert (forward >= first.uncertainty[:, None] + second.uncertainty[None]).all()


@given(gaussian_pairs(same_n=True))
def test_inclusion_is_antisymmetric_and_zero_with_itself(
    pair: tuple[Gaussians, Gaussians],
) -> None:
    first, second = pair
    forward = distances.inclusion_rows(first, second)
    scale = np.maximum(1, np.abs(forward))
    assert (np.abs(forward + distances.inclusion_rows(second, first)) <= 1e-4 * scale).all()
    np.testing.assert_array_equal(distances.inclusion_rows(first, first), 0)


@given(gaussian_pairs(same_n=True))
def test_inclusion_is_the_difference_of_the_two_overlaps(
    pair: tuple[Gaussians, Gaussians],
) -> None:
    first, second = (
        Arrays(side.mean.astype(np.float64), side.log_variance.astype(np.float64)) for side in pair
    )
    forward, backward = (
        distances.overlap_rows(first, second),
        distances.overlap_rows(second, first),
    )
    scale = np.maximum(1, np.maximum(np.abs(forward), np.abs(backward)))
    difference = distances.inclusion_rows(first, second) - (forward - backward)
    assert (np.abs(difference) <= 1e-10 * scale).all()


@given(gaussian_pairs(same_n=True))
def test_membership_is_the_overlap_less_the_narrowness_of_the_first(
    pair: tuple[Gaussians, Gaussians],
) -> None:
    first, second = (
        Arrays(side.mean.astype(np.float64), side.log_variance.astype(np.float64)) for side in pair
    )
    log_squared_norm = -0.5 * (np.log(4 * np.pi) + first.log_variance).sum(1)
    expected = distances.overlap_rows(first, second) - log_squared_norm
    found = distances.membership_rows(first, second)
    assert (np.abs(found - expected) <= 1e-10 * np.maximum(1, np.abs(expected))).all()


@given(gaussians())
def test_kl_to_the_prior_is_never_negative(some: Gaussians) -> None:
    assert (distances.kl_to_prior(some) >= -1e-5).all()


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@given(pair=gaussian_pairs(log_variance=(-12.0, 2.0)))
def test_augmented_vectors_order_exactly_as_csd(
    metric: distances.Metric, pair: tuple[Gaussians, Gaussians]
) -> None:
    queries, items = (
        Arrays(side.mean.astype(np.float64), side.log_variance.astype(np.float64)) for side in pair
    )
    left = distances.augment_queries(queries, metric)
    right = distances.augment_items(items, metric)
    assert left.shape[1] == right.shape[1] == items.mean.shape[1] + 1
    if metric == "l2":
        order = ((left[:, None] - right[None]) ** 2).sum(-1)
    else:
        # CSD = ‖μ_q‖² + ‖μ_i‖² + u_q − 2 · inner product, with unit means
        order = 2 - 2 * (left @ right.T)
    shift = distances.uncertainty(queries)[:, None]
    # float32 unit means are unit to 1e-7 only
    np.testing.assert_allclose(order + shift, distances.csd(queries, items), atol=1e-6)


def test_another_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="inner_product"):
        distances.augment_items(make_gaussians(1, 2, seed=0), "cosine")  # type: ignore[arg-type]  # the point


@given(gaussian_pairs(same_n=True))
def test_torch_and_numpy_agree_and_keep_their_kind(pair: tuple[Gaussians, Gaussians]) -> None:
    first, second = pair
    tensors = [
        Arrays(torch.from_numpy(side.mean.copy()), torch.from_numpy(side.log_variance.copy()))
        for side in pair
    ]
    for name in ("csd", "overlap", "inclusion", "membership"):
        for form in (name, f"{name}_rows"):
            there = getattr(distances, form)(*tensors)
            here = getattr(distances, form)(first, second)
            assert isinstance(there, torch.Tensor)
            assert there.dtype == torch.float32
            assert here.dtype == np.float32
            np.testing.assert_allclose(there.numpy(), here, rtol=2e-4, atol=2e-4)


def test_nothing_overflows_at_the_limits_of_float32() -> None:
    dim = 4
    extremes = [-60.0, 0.0, 20.0]
    for low, high in product(extremes, extremes):
        first = Gaussians.from_raw(np.eye(1, dim), np.full((1, dim), low))
        second = Gaussians.from_raw(-np.eye(1, dim), np.full((1, dim), high))
        for name in ("csd", "overlap", "inclusion", "membership"):
            assert np.isfinite(getattr(distances, name)(first, second)).all(), (name, low, high)


def test_match_probability_is_the_sigmoid_of_the_logit() -> None:
    match = MatchLogit(12.0, -6.0)
    distance = np.array([0.0, 0.5, 1.0, 2.0, 1e6])
    expected = 1 / (1 + np.exp(-match.logit(distance[:4])))
    np.testing.assert_allclose(match.probability(distance)[:4], expected, rtol=1e-12)
    assert match.probability(distance)[4] == 0.0
    np.testing.assert_allclose(
        match.probability(torch.from_numpy(distance)).numpy(), match.probability(distance)
    )


@pytest.mark.parametrize(("scale", "bias"), [(0.0, 0.0), (-1.0, 0.0), (np.inf, 0.0), (1.0, np.nan)])
def test_a_match_logit_without_meaning_is_refused(scale: float, bias: float) -> None:
    with pytest.raises(ValueError, match="positive, finite scale"):
        MatchLogit(scale, bias)
