"""The seam between whatever turns images and texts into Gaussians and everything that uses them.

No torch and no ONNX Runtime are imported here: the engine, the store and the command line speak
this protocol, and a query must not pay for a training framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from prolip_search.distances import MatchLogit
from prolip_search.gaussians import Gaussians

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Encoder", "Pixels", "TowerOutput", "Towers"]

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]  # [B, 3, H, W], or [3, H, W] of one
TowerOutput = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # mean, log-variance [B, D]


@runtime_checkable
class Encoder(Protocol):
    """Turns images and texts into diagonal Gaussians of one space.

    Its attributes are cheap to read: none of them loads a tower. A tower is loaded at the first
    call that needs it, and a text never loads the image tower.
    """

    @property
    def name(self) -> str:
        """What `load_encoder` was given: `mini`, a folder, or a hub id."""

    @property
    def revision(self) -> str | None:
        """The commit of the hub repository the files came from; None for local files."""

    @property
    def dim(self) -> int:
        """D, the dimension of every Gaussian this encoder makes."""

    @property
    def match_logit(self) -> MatchLogit:
        """The checkpoint's learned scale and bias of the match logit."""

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits over weights, configuration, tokenizer and preprocessing."""

    @property
    def image_size(self) -> int:
        """The side, in pixels, that an image may be decoded down to without loss for this encoder.

        A JPEG decoder may halve an image as long as its shorter side stays at least this long.
        """

    def prepare_image(self, image: Image) -> Pixels:
        """One image -> [3, H, W], uint8 or float32 as the encoder likes; safe in threads."""

    def encode_prepared(self, batch: Pixels) -> Gaussians:
        """[B, 3, H, W], stacked results of `prepare_image` -> Gaussians [B, D]."""

    def encode_images(self, images: Sequence[Image]) -> Gaussians:
        """B images -> Gaussians [B, D], in bounded batches."""

    def encode_texts(self, texts: Sequence[str]) -> Gaussians:
        """T texts -> Gaussians [T, D]; texts longer than the tower reads are cut at its end."""

    def is_truncated(self, text: str) -> bool:
        """Whether `text` is longer than the text tower reads."""


class Towers(Protocol):
    """The two networks behind an encoder, NumPy in and NumPy out, whatever runs them.

    Means may be raw: `TowerEncoder` normalises. Each tower is loaded at its first call.
    """

    def image(self, pixels: Pixels) -> TowerOutput:
        """Pixels [B, 3, H, W] -> mean [B, D], log-variance [B, D]."""

    def text(self, ids: npt.NDArray[np.int64]) -> TowerOutput:
        """Token ids [B, L] -> mean [B, D], log-variance [B, D]."""
