"""One pass through both towers: pixels and ids, whole and masked, to Gaussians of unit mean."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from prolip_search.train.losses import GaussianTensors
from prolip_search.train.towers.forms import Forms

__all__ = ["GaussianModel", "Outputs", "Towers"]

MEAN_EPS = 1e-12  # as in the released forward pass


class GaussianModel(Protocol):
    """What the loop trains: `ProLIP`, and whatever else gives Gaussians of both kinds."""

    logit_scale: Tensor  # the logarithm of s
    logit_bias: Tensor | None

    def encode_image(
        self, pixels: Tensor, keep_patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[B, …] -> raw mean [B, D], log-variance [B, D]."""

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, …] -> raw mean [B, D], log-variance [B, D]."""


class Outputs(NamedTuple):
    """Unit means and log-variances of B pairs, in float32, and the match logit's parameters.

    The masked forms are those of the first n pairs; None where there are none. The match logit is
    among the outputs so that its gradient, too, comes back through the pass that gave it.
    """

    image_mean: Tensor  # [B, D]
    image_log_variance: Tensor  # [B, D]
    text_mean: Tensor  # [B, D]
    text_log_variance: Tensor  # [B, D]
    masked_image_mean: Tensor | None  # [n, D]
    masked_image_log_variance: Tensor | None  # [n, D]
    masked_text_mean: Tensor | None  # [n, D]
    masked_text_log_variance: Tensor | None  # [n, D]
    logit_scale: Tensor  # the logarithm of s
    logit_bias: Tensor | None

    @property
    def images(self) -> GaussianTensors:
        """Mean and log-variance [B, D]."""
        return self.image_mean, self.image_log_variance

    @property
    def texts(self) -> GaussianTensors:
        """Mean and log-variance [B, D]."""
        return self.text_mean, self.text_log_variance

    @property
    def masked_images(self) -> GaussianTensors | None:
        """Mean and log-variance [n, D]."""
        return _both(self.masked_image_mean, self.masked_image_log_variance)

    @property
    def masked_texts(self) -> GaussianTensors | None:
        """Mean and log-variance [n, D]."""
        return _both(self.masked_text_mean, self.masked_text_log_variance)


class Towers(nn.Module):
    """The model as a module with one forward pass, which is what can be distributed."""

    def __init__(self, model: nn.Module, *, precision: str = "float32") -> None:
        super().__init__()
        self.model = model
        self.precision = precision

    def forward(self, forms: Forms) -> Outputs:
        """The Gaussians of a batch; float32 whatever the towers compute in."""
        model: GaussianModel = self.model  # type: ignore[assignment]  # a module that keeps the protocol
        with torch.autocast(
            forms.ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"
        ):
            images = model.encode_image(forms.pixels)
            texts = model.encode_text(forms.ids)
            masked_images = masked_texts = None
            if forms.masked_pixels is not None:
                masked_images = model.encode_image(forms.masked_pixels, forms.keep_patches)
            if forms.masked_ids is not None:
                masked_texts = model.encode_text(forms.masked_ids)
        image, text = _unit(images), _unit(texts)
        masked_image = (None, None) if masked_images is None else _unit(masked_images)
        masked_text = (None, None) if masked_texts is None else _unit(masked_texts)
        return Outputs(
            image_mean=image[0],
            image_log_variance=image[1],
            text_mean=text[0],
            text_log_variance=text[1],
            masked_image_mean=masked_image[0],
            masked_image_log_variance=masked_image[1],
            masked_text_mean=masked_text[0],
            masked_text_log_variance=masked_text[1],
            # Not the parameters themselves: an output must be something that was computed.
            logit_scale=model.logit_scale * 1,
            logit_bias=None if model.logit_bias is None else model.logit_bias * 1,
        )


def _unit(raw: GaussianTensors) -> GaussianTensors:
    mean, log_variance = raw
    return normalize(mean.float(), dim=-1, eps=MEAN_EPS), log_variance.float()


def _both(mean: Tensor | None, log_variance: Tensor | None) -> GaussianTensors | None:
    return None if mean is None or log_variance is None else (mean, log_variance)
