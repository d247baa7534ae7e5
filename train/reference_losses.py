"""The losses of the released ProLIP code, so that published runs can be repeated; not for new ones.

Where they depart from the mathematics (`losses.py`), for one process:

| term | released code (this file) | the mathematics (`losses.py`) |
| --- | --- | --- |
| PPCL | the same | the same |
| inclusion, log-normaliser | −2 ℓv₁ − ℓv₂: right for log σ, but log σ² is passed; the variance part of H comes out 2 to 2.5 times too large | −ℓv₁ − ½ ℓv₂ |
| inclusion, mean term | multiplied by e^ε, ε −20 in pre-training and −100 in LongProLIP: the means have no say | δ² as it is |
| inclusion, logistic | of each dimension by itself, scale c = 1000 or 10, then the mean over batch and dimensions | of H summed over dimensions, scale/D |
| inclusion, skip | a term whose absolute value passes 1e5 is replaced by 0 | never |
| VIB | ℓv is halved and the half used as if it were ℓv; the minimum stays, the gradient at ℓv −10 is about half | KL to N(0, I) |
| VIB, reduction | mean over batch and dimensions: its weight is β/D | sum over dimensions, mean over batch |
| VIB, skip | a KL above 1e4 is replaced by 0 | never |

On W processes the released code counts VIB and every inclusion term W times, against texts of
other processes, and for an even W its PPCL takes one process's texts twice and another's never.
That is not reproduced here: `pairwise.distributed_ppcl_loss` is exact, the rest are means.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prolip_search.train.losses import GaussianTensors, PairwiseLoss, ppcl_loss

__all__ = [
    "ReferenceSettings",
    "reference_inclusion_loss",
    "reference_inclusion_test",
    "reference_kl",
    "reference_siglip_loss",
    "reference_total_loss",
]

LARGEST_INCLUSION = 1e5  # the released code drops a term beyond it
LARGEST_KL = 1e4


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSettings:
    """Weights and constants; the defaults are what pre-training used (its command line's)."""

    ppcl_lambda: float = 1.0
    vib_beta: float = 1e-4
    inclusion_alpha: float = 1e-7
    inclusion_alpha_occ: float = 1e-3
    inclusion_loss_eps: float = -20.0
    inclusion_loss_scale: float = 1000.0
    siglip_lambda: float = 0.0


def reference_inclusion_test(
    inner: GaussianTensors, outer: GaussianTensors, *, eps: float
) -> Tensor:
    """The released one-sided overlap, per dimension [N, D], its log-normaliser doubled."""
    (mean1, log_variance1), (mean2, log_variance2) = inner, outer
    log_a = torch.logaddexp(eps - log_variance1, eps - log_variance2 - math.log(2))
    distance = (mean1 - mean2).square() / (log_variance1.exp() + 2 * log_variance2.exp())
    return -2 * log_variance1 - log_variance2 - log_a / 2 - math.exp(eps) * distance


def reference_inclusion_loss(
    inner: GaussianTensors, outer: GaussianTensors, *, eps: float = -20.0, scale: float = 1000.0
) -> Tensor:
    """−log σ(scale · (test(inner, outer) − test(outer, inner))) per dimension, their mean."""
    difference = reference_inclusion_test(inner, outer, eps=eps) - reference_inclusion_test(
        outer, inner, eps=eps
    )
    return _skipped_beyond(-logsigmoid(scale * difference).mean(), LARGEST_INCLUSION)


def reference_kl(gaussians: GaussianTensors) -> Tensor:
    """The released KL: half the log-variance in place of it, mean over batch and dimensions."""
    mean, log_variance = gaussians
    half = log_variance / 2
    return -(1 + half - mean.square() - half.exp()).mean() / 2


def reference_siglip_loss(
    images: GaussianTensors,
    texts: GaussianTensors,
    *,
    negative_scale: Tensor | float,
    shift: Tensor | float,
) -> Tensor:
    """The ablation's deterministic sigmoid loss over cosines, divided by the number of images."""
    logits = negative_scale * (images[0] @ texts[0].T) + shift
    matched = torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
    return -logsigmoid(torch.where(matched, logits, -logits)).sum() / logits.shape[0]


def reference_total_loss(
    images: GaussianTensors,
    texts: GaussianTensors,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    masked_images: GaussianTensors | None = None,
    masked_texts: GaussianTensors | None = None,
    settings: ReferenceSettings | None = None,
    siglip_scale_and_shift: tuple[Tensor | float, Tensor | float] | None = None,
    ppcl: PairwiseLoss = ppcl_loss,
) -> dict[str, Tensor]:
    """All terms of one process's batch, weighted, under the released names, and their `total`.

    masked_images, masked_texts [n, D]: masked forms of the first n images and texts. ppcl: another
    way to compute the same pairwise loss.
    """
    settings = ReferenceSettings() if settings is None else settings
    terms = {
        "ppcl": settings.ppcl_lambda
        * ppcl(images, texts, logit_scale=logit_scale, logit_bias=logit_bias),
        "inclusion": settings.inclusion_alpha * _inclusion(images, texts, settings),
        "vib": settings.vib_beta
        * _skipped_beyond(reference_kl(images) + reference_kl(texts), LARGEST_KL),
    }
    for name, whole, masked in (
        ("img_inclusion", images, masked_images),
        ("txt_inclusion", texts, masked_texts),
    ):
        if masked is not None:
            n = masked[0].shape[0]
            terms[name] = settings.inclusion_alpha_occ * _inclusion(
                (whole[0][:n], whole[1][:n]), masked, settings
            )
    if settings.siglip_lambda and siglip_scale_and_shift is not None:
        negative_scale, shift = siglip_scale_and_shift
        terms["siglip"] = settings.siglip_lambda * reference_siglip_loss(
            images, texts, negative_scale=negative_scale, shift=shift
        )
    terms["total"] = sum(terms.values(), start=images[0].new_zeros(()))
    return terms


def _inclusion(
    inner: GaussianTensors, outer: GaussianTensors, settings: ReferenceSettings
) -> Tensor:
    return reference_inclusion_loss(
        inner, outer, eps=settings.inclusion_loss_eps, scale=settings.inclusion_loss_scale
    )


def _skipped_beyond(loss: Tensor, largest: float) -> Tensor:
    """The loss, or a constant 0 without gradient where it passes `largest`; NaN stays NaN."""
    if bool(loss.detach().abs() > largest):
        return loss.new_zeros(())
    return loss
