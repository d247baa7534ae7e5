"""Adapters in torch: the heads, the heads over a model of open_clip, the heads over any object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu

from prolip_search.distances import MatchLogit
from prolip_search.encoders.adapter import (
    HEADS,
    AdapterHeadsConfig,
    ObjectTrunk,
    OpenClipTrunk,
    read_adapter_config,
)
from prolip_search.encoders.open_clip_trunk import build_open_clip
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.protocol import Pixels
from prolip_search.errors import CheckpointError, ConfigError
from prolip_search.gaussians import Gaussians

__all__ = ["AdapterEncoder", "AdapterHeads", "PointEncoder", "build_adapter", "with_trunk"]

Embeddings = npt.NDArray[np.floating[Any]]


class PointEncoder(Protocol):
    """A frozen encoder of points, as `with_trunk` and training take it.

    fingerprint: changes whenever an embedding would; it is what tells one trunk from another.
    """

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def fingerprint(self) -> str:
        """Over weights, tokenizer and preprocessing."""

    @property
    def image_size(self) -> int:
        """The shorter side, in pixels, below which an image loses something for this encoder."""

    def encode_images(self, images: Sequence[Image.Image]) -> Embeddings:
        """B RGB images -> embeddings [B, D], of any length."""

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """T texts -> embeddings [T, D], in the same space."""


class GaussianHead(nn.Module):
    """Embedding [B, D] -> raw mean [B, D] and log-variance [B, D].

    An embedding's length says something of how sure its encoder is, so it is not normalised away:
    `length` is the mean of the training embeddings', and divides them all.
    """

    length: Tensor

    def __init__(self, dim: int, config: AdapterHeadsConfig) -> None:
        super().__init__()
        self.register_buffer("length", torch.ones(()))
        self.variance_hidden = nn.Linear(dim, config.variance_hidden)
        self.variance_out = nn.Linear(config.variance_hidden, dim)
        # Every Gaussian begins alike, and every mean as the trunk's.
        nn.init.zeros_(self.variance_out.weight)
        nn.init.constant_(self.variance_out.bias, math.log(config.initial_uncertainty / dim))
        self.moves_mean = not config.freeze_mean
        if self.moves_mean:
            self.mean_hidden = nn.Linear(dim, config.mean_hidden)
            self.mean_out = nn.Linear(config.mean_hidden, dim)
            nn.init.zeros_(self.mean_out.weight)
            nn.init.zeros_(self.mean_out.bias)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] -> raw mean [B, D], log-variance [B, D]."""
        mean = embedding / self.length
        spread = mean * mean.shape[-1] ** 0.5  # coordinates of about 1
        log_variance = self.variance_out(gelu(self.variance_hidden(spread)))
        if self.moves_mean:
            mean = mean + self.mean_out(gelu(self.mean_hidden(spread)))
        return mean, log_variance


class AdapterHeads(nn.Module):
    """Both heads and the match logit: all that is trained."""

    def __init__(self, dim: int, config: AdapterHeadsConfig) -> None:
        super().__init__()
        self.dim = dim
        self.config = config
        self.image = GaussianHead(dim, config)
        self.text = GaussianHead(dim, config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def match_logit(self) -> MatchLogit:
        """What the two parameters mean."""
        return MatchLogit(self.logit_scale.exp().item(), self.logit_bias.item())

    def encode_image(
        self, embedding: Tensor, keep_patches: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of images [B, D] -> raw mean [B, D], log-variance [B, D]."""
        del keep_patches  # an embedding has no patches
        mean, log_variance = self.image(embedding)
        return mean, log_variance

    def encode_text(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of texts [B, D] -> raw mean [B, D], log-variance [B, D]."""
        mean, log_variance = self.text(embedding)
        return mean, log_variance


class AdapterTowers(nn.Module):
    """A model of open_clip and heads, from normalised pixels and token ids to Gaussians."""

    def __init__(self, trunk: nn.Module, heads: AdapterHeads) -> None:
        super().__init__()
        self.trunk: Any = trunk
        self.heads = heads

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels [B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        return self.heads.encode_image(self.trunk.encode_image(pixels))

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [B, L] -> raw mean [B, D], log-variance [B, D]."""
        return self.heads.encode_text(self.trunk.encode_text(ids))


def load_heads(folder: Path) -> AdapterHeads:
    """The trained heads of a folder. Raises EncoderNotFound, CheckpointError."""
    config = read_adapter_config(folder)
    heads = AdapterHeads(config.dim, config.heads)
    try:
        heads.load_state_dict(load_file(folder / HEADS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / HEADS} does not hold the heads that config.json beside it describes: "
            f"{error}"
        ) from error
    return heads.eval().requires_grad_(False)


def build_adapter(folder: Path) -> AdapterTowers:
    """Trunk and heads, in evaluation mode. Raises EncoderNotFound, CheckpointError."""
    trunk = read_adapter_config(folder).trunk
    if not isinstance(trunk, OpenClipTrunk):
        raise ConfigError(f"The trunk of {folder} is a Python object; use `with_trunk`.")
    module = build_open_clip(trunk.model_config, trunk.find_weights(folder))
    return AdapterTowers(module, load_heads(folder)).eval()


def with_trunk(folder: Path, trunk: PointEncoder) -> AdapterEncoder:
    """The encoder that an adapter's heads and a Python object make together.

    Raises CheckpointError where the heads were trained over another object.
    """
    config = read_adapter_config(folder)
    if not isinstance(config.trunk, ObjectTrunk):
        raise ConfigError(f"The trunk of {folder} is no Python object: `load_encoder({folder})`.")
    if config.trunk.fingerprint != trunk.fingerprint:
        raise CheckpointError(
            f"The adapter in {folder} was trained over {config.trunk.name} "
            f"({config.trunk.fingerprint[:8]}), but this is {trunk.name} "
            f"({trunk.fingerprint[:8]}); give it that one, or train the adapter anew."
        )
    return AdapterEncoder(folder, trunk)


class AdapterEncoder:
    """An `Encoder` whose points come from a Python object."""

    revision = None

    def __init__(self, folder: Path, trunk: PointEncoder) -> None:
        config = read_adapter_config(folder)
        self.trunk = trunk
        self.name = str(folder)
        self.dim = config.dim
        self.match_logit = config.match_logit
        self.fingerprint = config.fingerprint(folder / HEADS)
        self._heads = load_heads(folder)
        self._preprocessing = ImagePreprocessing(size=trunk.image_size)

    @property
    def image_size(self) -> int:
        """The trunk's."""
        return self.trunk.image_size

    def prepare_image(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """One image -> the middle of it, uint8 [3, S, S]."""
        return self._preprocessing.prepare(image)

    def encode_prepared(self, batch: Pixels) -> Gaussians:
        """[B, 3, S, S] from `prepare_image` -> Gaussians [B, D]."""
        return self.encode_images([Image.fromarray(one.transpose(1, 2, 0)) for one in batch])

    def encode_images(self, images: Sequence[Image.Image]) -> Gaussians:
        """B images -> Gaussians [B, D]."""
        if not images:
            return self._nothing()
        return self._gaussians(self._heads.image, self.trunk.encode_images(images))

    def encode_texts(self, texts: Sequence[str]) -> Gaussians:
        """T texts -> Gaussians [T, D]."""
        if not texts:
            return self._nothing()
        return self._gaussians(self._heads.text, self.trunk.encode_texts(texts))

    def is_truncated(self, text: str) -> bool:
        """Whether the trunk says that it cuts this text; False where it cannot say."""
        ask = getattr(self.trunk, "is_truncated", None)
        return bool(ask(text)) if ask is not None else False

    @torch.inference_mode()
    def _gaussians(self, head: GaussianHead, embeddings: Embeddings) -> Gaussians:
        mean, log_variance = head(torch.from_numpy(np.array(embeddings, np.float32)))
        return Gaussians.from_raw(mean.numpy(), log_variance.numpy())

    def _nothing(self) -> Gaussians:
        nothing = np.zeros((0, self.dim), np.float32)
        return Gaussians(nothing, nothing)
