"""The reference losses are the released code's, value for value and gradient for gradient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prolip_search.train.losses import GaussianTensors
from prolip_search.train.reference_losses import (
    ReferenceSettings,
    reference_inclusion_loss,
    reference_inclusion_test,
    reference_kl,
    reference_total_loss,
)

RELATIVE = 1e-9  # float64, ours in log-variances against theirs in exponentials
SETTINGS = ("pretrain", "long", "classdefault_eps", "unit")
SIDES = ("image", "text", "masked_image", "masked_text")


@pytest.fixture(scope="module")
def official(shared_reference: Path) -> dict[str, np.ndarray]:
    """Every array that the official loss code gave."""
    with np.load(shared_reference / "losses.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("batch", ["tiny", "synth"])
def test_every_term_and_gradient_equals_the_released_code(
    official: dict[str, np.ndarray], batch: str, setting: str
) -> None:
    inputs = {
        f"{side}_{part}": torch.tensor(official[f"{batch}.{side}_{part}"], requires_grad=True)
        for side in SIDES
        for part in ("mean", "logvar")
    }
    inputs["logit_scale_exp"] = torch.tensor(official["logit_scale_exp"], requires_grad=True)
    inputs["logit_bias"] = torch.tensor(official["logit_bias"], requires_grad=True)
    image, text, masked_image, masked_text = (
        (inputs[f"{side}_mean"], inputs[f"{side}_logvar"]) for side in SIDES
    )
    hyperparameters = json.loads(str(official["hyperparameters_json"]))[setting]
    terms = reference_total_loss(
        image,
        text,
        logit_scale=inputs["logit_scale_exp"],
        logit_bias=inputs["logit_bias"],
        masked_images=masked_image,
        masked_texts=masked_text,
        settings=ReferenceSettings(**hyperparameters),
        siglip_scale_and_shift=(
            float(official["siglip.negative_scale"]),
            float(official["siglip.shift"]),
        ),
    )
    expected_terms = {"ppcl", "inclusion", "vib", "img_inclusion", "txt_inclusion", "total"}
    assert set(terms) == expected_terms | ({"siglip"} if setting == "unit" else set())
    for name, value in terms.items():
        assert value.item() == pytest.approx(official[f"{batch}.{setting}.{name}"], rel=RELATIVE)
    terms["total"].backward()
    for name, tensor in inputs.items():
        assert tensor.grad is not None
        expected = official[f"{batch}.{setting}.grad.{name}"]
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=RELATIVE, atol=0)


@pytest.mark.parametrize("eps", [0, -20])
@pytest.mark.parametrize("batch", ["tiny", "synth"])
def test_the_pieces_equal_the_released_code(
    official: dict[str, np.ndarray], batch: str, eps: int
) -> None:
    image, text = _pair(official, batch, "image"), _pair(official, batch, "text")
    for name, inner, outer in (("image_in_text", image, text), ("text_in_image", text, image)):
        np.testing.assert_allclose(
            reference_inclusion_test(inner, outer, eps=eps).numpy(),
            official[f"{batch}.inclusion_test_{name}.eps{eps}"],
            rtol=RELATIVE,
        )
    assert reference_kl(image).item() == pytest.approx(official[f"{batch}.kl_image"], rel=RELATIVE)
    assert reference_kl(text).item() == pytest.approx(official[f"{batch}.kl_text"], rel=RELATIVE)


def test_an_inclusion_term_beyond_the_threshold_is_dropped_with_its_gradient() -> None:
    mean = torch.zeros(2, 3, dtype=torch.float64)
    narrow = torch.full((2, 3), -30.0, dtype=torch.float64, requires_grad=True)
    wide = torch.zeros(2, 3, dtype=torch.float64)
    # log-variances 30 apart make a test difference of about 45, times the scale
    kept = reference_inclusion_loss((mean, wide), (mean, narrow), scale=2000.0)
    assert 5e4 < kept.item() < 1e5
    assert kept.requires_grad
    dropped = reference_inclusion_loss((mean, wide), (mean, narrow), scale=4000.0)
    assert dropped.item() == 0
    assert not dropped.requires_grad


def test_a_kl_beyond_the_threshold_is_dropped() -> None:
    mean = torch.zeros(2, 3, dtype=torch.float64)
    settings = ReferenceSettings(ppcl_lambda=0, inclusion_alpha=0, vib_beta=1)

    def vib(log_variance: float) -> float:
        images = (mean, torch.full_like(mean, log_variance))
        return reference_total_loss(
            images, (mean, mean), logit_scale=1.0, logit_bias=0.0, settings=settings
        )["vib"].item()

    assert vib(18.0) > 4e3  # e⁹/2
    assert vib(20.0) == 0  # e¹⁰/2 > 1e4


def test_the_released_kl_has_the_right_minimum_and_half_the_gradient() -> None:
    mean = torch.zeros(1, 4, dtype=torch.float64)
    for log_variance, expected in ((0.0, 0.0), (-10.0, (np.exp(-5) - 1) / 4)):
        variable = torch.full((1, 4), log_variance, dtype=torch.float64, requires_grad=True)
        (reference_kl((mean, variable)) * 4).backward()  # × D: a sum over dimensions
        assert variable.grad is not None
        np.testing.assert_allclose(variable.grad.numpy(), expected, atol=1e-15)


def _pair(arrays: dict[str, np.ndarray], batch: str, side: str) -> GaussianTensors:
    return (
        torch.tensor(arrays[f"{batch}.{side}_mean"]),
        torch.tensor(arrays[f"{batch}.{side}_logvar"]),
    )
