"""The one concrete encoder: preprocessing and a tokenizer before two towers, Gaussians behind them.

No torch and no ONNX Runtime here: what runs the towers is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prolip_search.distances import MatchLogit
from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.protocol import Pixels, Towers
from prolip_search.errors import CheckpointError, ConfigError
from prolip_search.gaussians import Gaussians

if TYPE_CHECKING:
    from PIL.Image import Image

    from prolip_search.encoders.tokenizers import TextTokenizer

__all__ = ["EncoderParts", "TowerEncoder"]

IMAGE_BATCH = 32
TEXT_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderParts:
    """Everything about an encoder but what runs it; cheap to make, nothing heavy is loaded.

    load_tokenizer: makes the tokenizer. build_module: makes the torch module, in evaluation mode,
    with `encode_image(pixels [B, 3, H, W] float32, normalised)` and `encode_text(ids [B, L])`,
    each giving (mean [B, D], log-variance [B, D]); only torch and the ONNX export call it.
    vocab_size: how many ids the text tower knows. dynamic_text: whether rows shorter than the
    context may be given (padding is masked inside the tower).
    """

    name: str
    revision: str | None
    dim: int
    match_logit: MatchLogit
    fingerprint: str
    preprocessing: ImagePreprocessing
    vocab_size: int
    dynamic_text: bool
    load_tokenizer: Callable[[], TextTokenizer]
    build_module: Callable[[], Any]


class TowerEncoder:
    """An `Encoder` out of its parts and a runtime. Made by `load_encoder`."""

    def __init__(self, parts: EncoderParts, towers: Towers) -> None:
        self.parts = parts
        self.towers = towers

    def __repr__(self) -> str:
        return (
            f"TowerEncoder({self.name!r}, D={self.dim}, fingerprint={self.fingerprint[:8]}, "
            f"towers={type(self.towers).__name__})"
        )

    @property
    def name(self) -> str:
        """What `load_encoder` was given."""
        return self.parts.name

    @property
    def revision(self) -> str | None:
        """The pinned commit of a hub encoder."""
        return self.parts.revision

    @property
    def dim(self) -> int:
        """D."""
        return self.parts.dim

    @property
    def match_logit(self) -> MatchLogit:
        """The checkpoint's learned scale and bias."""
        return self.parts.match_logit

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over weights, configuration, tokenizer and preprocessing."""
        return self.parts.fingerprint

    @property
    def image_size(self) -> int:
        """The side an image may be decoded down to."""
        return self.parts.preprocessing.size

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, loaded at the first text. Raises CheckpointError if it does not fit."""
        tokenizer = self.parts.load_tokenizer()
        if tokenizer.vocab_size > self.parts.vocab_size:
            raise CheckpointError(
                f"The tokenizer of {self.name} makes ids up to {tokenizer.vocab_size - 1:,}, but "
                f"its text tower knows {self.parts.vocab_size:,}; they do not belong together."
            )
        return tokenizer

    def prepare_image(self, image: Image) -> npt.NDArray[np.uint8]:
        """One image -> uint8 [3, H, W]; safe in threads."""
        return self.parts.preprocessing.prepare(image)

    def encode_prepared(self, batch: Pixels) -> Gaussians:
        """[B, 3, H, W] from `prepare_image` (or normalised float32) -> Gaussians [B, D]."""
        size = self.image_size
        if batch.ndim != 4 or batch.shape[1:] != (3, size, size):
            raise ConfigError(
                f"Pixels must have shape [B, 3, {size}, {size}], not {list(batch.shape)}; "
                "make them with prepare_image."
            )
        if not len(batch):
            return self._nothing()
        return Gaussians.from_raw(*self.towers.image(self.parts.preprocessing.normalise(batch)))

    def encode_images(self, images: Sequence[Image]) -> Gaussians:
        """B images -> Gaussians [B, D], 32 at a time."""
        parts = [
            self.encode_prepared(
                np.stack(
                    [self.prepare_image(image) for image in images[start : start + IMAGE_BATCH]]
                )
            )
            for start in range(0, len(images), IMAGE_BATCH)
        ]
        return Gaussians.concatenate(parts) if parts else self._nothing()

    def encode_texts(self, texts: Sequence[str]) -> Gaussians:
        """T texts -> Gaussians [T, D], 64 at a time; longer texts than the tower reads are cut."""
        if isinstance(texts, str):
            raise ConfigError("encode_texts takes a sequence of texts; put the one text in a list.")
        if not texts:
            return self._nothing()
        # Like lengths together: a batch is as wide as its longest row where padding is masked.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        means, log_variances = [], []
        for start in range(0, len(order), TEXT_BATCH):
            chunk = [texts[row] for row in order[start : start + TEXT_BATCH]]
            mean, log_variance = self.towers.text(self.tokenizer(chunk))
            means.append(mean)
            log_variances.append(log_variance)
        back = np.argsort(order)
        return Gaussians.from_raw(np.concatenate(means)[back], np.concatenate(log_variances)[back])

    def is_truncated(self, text: str) -> bool:
        """Whether `text` is longer than the text tower reads."""
        return self.tokenizer.n_tokens(text) > self.tokenizer.context_length

    def _nothing(self) -> Gaussians:
        nothing = np.zeros((0, self.dim), np.float32)
        return Gaussians(nothing, nothing)
