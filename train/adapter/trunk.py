"""A model of open_clip as the frozen encoder of points that adapters are trained over."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from prolip_search.encoders.adapter import OpenClipTrunk, trunk_tokenizer
from prolip_search.encoders.open_clip_trunk import find_open_clip
from prolip_search.errors import ConfigError
from prolip_search.train.adapter.config import TrunkConfig
from prolip_search.train.feature_cache import cache_key

__all__ = ["OpenClipPoints"]


class OpenClipPoints:
    """The embeddings of a CLIP or SigLIP, not normalised. It is built at the first of them: where
    all are cached it never is.

    Raises ConfigError, EncoderNotFound, CheckpointError.
    """

    def __init__(self, config: TrunkConfig, device: torch.device | str = "cpu") -> None:
        if not config.architecture:
            raise ConfigError(
                "An adapter needs a trunk: --set trunk.architecture=NAME (a folder as open_clip "
                "publishes one, or its name for it) and --set trunk.weights=FILE.safetensors."
            )
        self._found = find_open_clip(config.architecture, config.weights or None)
        self.tokenizer_file = Path(config.tokenizer).expanduser() if config.tokenizer else None
        self._tokenizer = trunk_tokenizer(self._found.config, self.tokenizer_file)
        self._device = device
        self.name = config.architecture
        self.image_size = self._found.preprocessing.size
        self.description = OpenClipTrunk(
            architecture=config.architecture,
            model_config=self._found.config,
            weights=str(self._found.weights.resolve()),
            sha256=self._found.sha256,
            preprocessing=self._found.preprocessing,
            tokenizer_sha256=(
                hashlib.sha256(self.tokenizer_file.read_bytes()).hexdigest()
                if self.tokenizer_file is not None
                else None
            ),
        )

    @property
    def fingerprint(self) -> str:
        """Over weights, architecture, tokenizer and preprocessing."""
        trunk = self.description
        return cache_key(
            trunk.sha256, trunk.model_config, trunk.tokenizer_sha256, trunk.preprocessing.to_json()
        )

    @cached_property
    def _module(self) -> Any:
        return self._found.build().to(self._device)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """B images -> embeddings [B, D]."""
        preprocessing = self._found.preprocessing
        pixels = preprocessing.normalise(np.stack([preprocessing.prepare(i) for i in images]))
        return self._numpy(self._module.encode_image(torch.from_numpy(pixels).to(self._device)))

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """T texts -> embeddings [T, D]."""
        ids = torch.from_numpy(self._tokenizer(texts))
        return self._numpy(self._module.encode_text(ids.to(self._device)))

    def _numpy(self, embeddings: torch.Tensor) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = embeddings.float().cpu().numpy()
        return found
