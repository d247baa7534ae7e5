"""The training losses say what the mathematics says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prolip_search.distances import csd, inclusion, kl_to_prior
from prolip_search.errors import ConfigError, TrainingError
from prolip_search.gaussians import Gaussians
from prolip_search.train.losses import (
    GaussianTensors,
    LossWeights,
    inclusion_loss,
    ppcl_loss,
    total_loss,
    vib_loss,
)
from tests.strategies import gaussian_pairs, gaussians

FLOAT64 = 1e-9  # far above rounding, far below any wrong formula


def tensors(these: Gaussians) -> GaussianTensors:
    """The same Gaussians as float64 tensors."""
    return (
        torch.tensor(np.array(these.mean, np.float64)),
        torch.tensor(np.array(these.log_variance, np.float64)),
    )


def batch(n: int, dim: int, seed: int) -> GaussianTensors:
    """n random unit means with log-variances around −4."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    log_variance = torch.randn(n, dim, generator=generator, dtype=torch.float64) - 4
    return torch.nn.functional.normalize(mean, dim=-1), log_variance


@given(gaussian_pairs(same_n=True, log_variance=(-12, 1)), st.floats(0.1, 50), st.floats(-12, 5))
def test_ppcl_is_the_logistic_loss_of_the_match_logit_over_all_pairs(
    pair: tuple[Gaussians, Gaussians], scale: float, bias: float
) -> None:
    first, second = tensors(pair[0]), tensors(pair[1])
    n = len(pair[0])
    loss = ppcl_loss(first, second, logit_scale=scale, logit_bias=bias).item()
    # `csd` is taken in float64 of the float32 rows, whose means are of unit length to 1e-7 only
    distance = csd(*(_Float64(p) for p in pair))
    sign = 2 * np.eye(n) - 1
    expected = np.logaddexp(0, -sign * (scale * (1 - distance / 2) + bias)).sum() / n
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(gaussian_pairs(same_n=True))
def test_inclusion_loss_agrees_with_the_inclusion_of_the_library(
    pair: tuple[Gaussians, Gaussians],
) -> None:
    h = np.diagonal(inclusion(*(_Float64(p) for p in pair)))
    loss = inclusion_loss(tensors(pair[0]), tensors(pair[1]), scale=3.0).item()
    assert loss == pytest.approx(np.logaddexp(0, -3.0 * h / pair[0].dim).mean(), rel=FLOAT64)


@given(gaussian_pairs(same_n=True))
def test_swapping_sides_changes_inclusion_loss_by_the_mean_inclusion(
    pair: tuple[Gaussians, Gaussians],
) -> None:
    first, second = tensors(pair[0]), tensors(pair[1])
    h = np.diagonal(inclusion(*(_Float64(p) for p in pair))).mean()
    there, back = inclusion_loss(first, second), inclusion_loss(second, first)
    assert (there - back).item() == pytest.approx(-10.0 * h / pair[0].dim, rel=FLOAT64, abs=FLOAT64)


def test_inclusion_loss_of_equal_widths_is_log_two() -> None:
    mean, log_variance = batch(4, 6, seed=1)
    loss = inclusion_loss((mean, log_variance), (mean.flip(0), log_variance))
    assert loss.item() == pytest.approx(math.log(2))


def test_one_step_on_inclusion_loss_widens_the_outer_and_narrows_the_inner() -> None:
    inner, outer = batch(4, 6, seed=1), batch(4, 6, seed=2)
    for _, log_variance in (inner, outer):
        log_variance.requires_grad_()
    inclusion_loss((inner[0], inner[1]), (inner[0], outer[1])).backward()  # equal means
    assert inner[1].grad is not None
    assert outer[1].grad is not None
    assert (inner[1].grad > 0).all()  # descending narrows
    assert (outer[1].grad < 0).all()


@given(gaussians(log_variance=(-20, 5)))
def test_vib_is_the_kl_to_the_prior_and_never_negative(these: Gaussians) -> None:
    loss = vib_loss(tensors(these)).item()
    assert loss == pytest.approx(kl_to_prior(_Float64(these)).mean(), rel=FLOAT64)
    assert loss >= 0


def test_the_vib_gradient_at_a_log_variance_is_half_of_variance_minus_one() -> None:
    mean, log_variance = batch(1, 5, seed=3)
    log_variance.requires_grad_()
    vib_loss((mean, log_variance)).backward()
    assert log_variance.grad is not None
    torch.testing.assert_close(log_variance.grad, (log_variance.detach().exp() - 1) / 2)


def test_several_captions_of_one_photo_are_all_positives() -> None:
    images, texts = batch(3, 5, seed=4), batch(6, 5, seed=5)
    owner = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = ppcl_loss(
        images,
        texts,
        logit_scale=10.0,
        logit_bias=-5.0,
        positives=owner[None] == torch.arange(3)[:, None],
    )
    # The same six captions against each photo twice: twice the sum, over twice the photos.
    doubled = (images[0][owner], images[1][owner])
    same = owner[None] == owner[:, None]
    twice = ppcl_loss(doubled, texts, logit_scale=10.0, logit_bias=-5.0, positives=same)
    assert loss.item() == pytest.approx(twice.item())


def test_a_batch_that_does_not_pair_up_is_refused() -> None:
    with pytest.raises(TrainingError, match="3 images and 6 texts"):
        ppcl_loss(batch(3, 5, seed=4), batch(6, 5, seed=5), logit_scale=1.0, logit_bias=0.0)


def test_the_total_is_the_sum_of_its_weighted_terms() -> None:
    images, texts = batch(4, 6, seed=6), batch(4, 6, seed=7)
    masked_images, masked_texts = batch(2, 6, seed=8), batch(2, 6, seed=9)
    weights = LossWeights(ppcl=2, image_in_text=0.5, image_in_masked=3, text_in_masked=4, vib=0.1)
    terms = total_loss(
        images,
        texts,
        logit_scale=torch.tensor(10.0),
        logit_bias=torch.tensor(-5.0),
        masked_images=masked_images,
        masked_texts=masked_texts,
        weights=weights,
    )
    first_two = (texts[0][:2], texts[1][:2])
    expected = {
        "ppcl": 2 * ppcl_loss(images, texts, logit_scale=10.0, logit_bias=-5.0),
        "image_in_text": 0.5 * inclusion_loss(images, texts),
        "text_in_masked": 4 * inclusion_loss(first_two, masked_texts),
        "vib": 0.1 * (vib_loss(images) + vib_loss(texts)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    total = terms.pop("total")
    assert set(terms) == {*expected, "image_in_masked"}
    torch.testing.assert_close(total, torch.stack(list(terms.values())).sum())


def test_a_weight_of_zero_leaves_its_term_out() -> None:
    images, texts = batch(4, 6, seed=6), batch(4, 6, seed=7)
    terms = total_loss(
        images,
        texts,
        logit_scale=10.0,
        logit_bias=-5.0,
        weights=LossWeights(image_in_text=0, vib=0),
    )
    assert set(terms) == {"ppcl", "total"}


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_an_impossible_weight_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="vib"):
        LossWeights(vib=weight)


def test_losses_stay_finite_in_float32_at_extreme_variances() -> None:
    mean = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1).requires_grad_()
    narrow = torch.full((4, 8), -50.0, requires_grad=True)
    wide = torch.full((4, 8), 8.0, requires_grad=True)
    terms = total_loss((mean, narrow), (mean.flip(0), wide), logit_scale=10.0, logit_bias=-5.0)
    terms["total"].backward()
    assert torch.isfinite(terms["total"])
    assert all(_finite(tensor.grad) for tensor in (mean, narrow, wide))


def _finite(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(torch.isfinite(gradient).all())


class _Float64:
    """Gaussians in float64, for comparisons finer than float32."""

    def __init__(self, these: Gaussians) -> None:
        self.mean = these.mean.astype(np.float64)
        self.log_variance = these.log_variance.astype(np.float64)
