"""The training losses, with the formulas as the mathematics has them.

Every function takes Gaussians as pairs of tensors `(mean [N, D], log_variance [N, D])`, means of
unit length, and returns a scalar tensor that can be differentiated. `reference_losses.py` holds
the variants of the released ProLIP code; where the two part, and by how much, is tabled there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from prolip_search.distances import Arrays, inclusion_rows, kl_to_prior, uncertainty
from prolip_search.errors import ConfigError, TrainingError

__all__ = [
    "GaussianTensors",
    "LossWeights",
    "PairwiseLoss",
    "inclusion_loss",
    "ppcl_loss",
    "total_loss",
    "vib_loss",
]

GaussianTensors = tuple[Tensor, Tensor]


class PairwiseLoss(Protocol):
    """PPCL over the pairs of a batch, however it is computed."""

    def __call__(
        self,
        images: GaussianTensors,
        texts: GaussianTensors,
        *,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float,
    ) -> Tensor: ...


def ppcl_loss(
    images: GaussianTensors,
    texts: GaussianTensors,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    positives: Tensor | None = None,
) -> Tensor:
    """Probabilistic pairwise contrastive loss: −log σ(±match logit) over all pairs, over images.

    images [N, D], texts [M, D]; `logit_scale` is s itself (already exponentiated), `logit_bias`
    is b. `positives` [N, M] bool says which pairs match; without it the diagonal of a square
    batch does. The sum over all N·M pairs is divided by N, so with C captions per photo divide by
    C once more to keep its size. The bias decides whether negatives teach: start it near
    −log(negatives per positive).
    """
    n_images, n_texts = images[0].shape[0], texts[0].shape[0]
    if positives is None:
        if n_images != n_texts:
            raise TrainingError(
                f"{n_images} images and {n_texts} texts do not pair up one to one; "
                "pass positives [N, M] to say which belong together."
            )
        positives = torch.eye(n_images, dtype=torch.bool, device=images[0].device)
    # 1 − CSD/2 for unit means, in the form whose gradient leaves the means' length alone.
    closeness = (
        images[0] @ texts[0].T
        - (uncertainty(Arrays(*images))[:, None] + uncertainty(Arrays(*texts))[None]) / 2
    )  # [N, M]
    logits = logit_scale * closeness + logit_bias
    # softplus would cut off beyond 20, an error of 2e-9 that the released losses do not have
    return -logsigmoid(torch.where(positives, logits, -logits)).sum() / n_images


def inclusion_loss(
    inner: GaussianTensors, outer: GaussianTensors, *, scale: Tensor | float = 10.0
) -> Tensor:
    """−log σ(scale · H(inner ⊂ outer) / D), the mean over rows; 0.69 where neither is the wider.

    inner, outer [N, D], row by row. H is the sum over dimensions (`distances.inclusion_rows`);
    dividing it by D keeps one scale right for every D. Antisymmetry of H makes this a two-class
    logistic loss: loss(1, 2) − loss(2, 1) = −scale · mean(H) / D.
    """
    dim = inner[0].shape[-1]
    h: Tensor = inclusion_rows(Arrays(*inner), Arrays(*outer))  # [N]
    return -logsigmoid(scale * h / dim).mean()


def vib_loss(gaussians: GaussianTensors) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, I)) in nats, summed over D, the mean over rows; ≥ 0."""
    kl: Tensor = kl_to_prior(Arrays(*gaussians))  # [N]
    return kl.mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What each term of `total_loss` counts for; a weight of 0 leaves the term uncomputed."""

    ppcl: float = 1.0
    image_in_text: float = 0.3
    image_in_masked: float = 1.0
    text_in_masked: float = 1.0
    vib: float = 1e-4
    inclusion_scale: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"loss weight {field.name} = {value} must be finite and ≥ 0.")


def total_loss(
    images: GaussianTensors,
    texts: GaussianTensors,
    *,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    masked_images: GaussianTensors | None = None,
    masked_texts: GaussianTensors | None = None,
    weights: LossWeights | None = None,
    ppcl: PairwiseLoss = ppcl_loss,
) -> dict[str, Tensor]:
    """All terms of one batch of N pairs, already weighted, and their sum under `total`.

    masked_images, masked_texts [n, D]: the masked forms of the first n images and texts, n ≤ N.
    ppcl: another way to compute the same pairwise loss, in blocks say.
    """
    weights = LossWeights() if weights is None else weights
    scale = weights.inclusion_scale
    terms: dict[str, Tensor] = {}
    if weights.ppcl:
        terms["ppcl"] = weights.ppcl * ppcl(
            images, texts, logit_scale=logit_scale, logit_bias=logit_bias
        )
    if weights.image_in_text:
        terms["image_in_text"] = weights.image_in_text * inclusion_loss(images, texts, scale=scale)
    if masked_images is not None and weights.image_in_masked:
        terms["image_in_masked"] = weights.image_in_masked * inclusion_loss(
            _first(images, masked_images), masked_images, scale=scale
        )
    if masked_texts is not None and weights.text_in_masked:
        terms["text_in_masked"] = weights.text_in_masked * inclusion_loss(
            _first(texts, masked_texts), masked_texts, scale=scale
        )
    if weights.vib:
        terms["vib"] = weights.vib * (vib_loss(images) + vib_loss(texts))
    terms["total"] = sum(terms.values(), start=images[0].new_zeros(()))
    return terms


def _first(gaussians: GaussianTensors, masked: GaussianTensors) -> GaussianTensors:
    """The first n rows, n being how many of them have a masked form."""
    n = masked[0].shape[0]
    return gaussians[0][:n], gaussians[1][:n]
