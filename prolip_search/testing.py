"""A small deterministic encoder for documentation, tests and integrators: no torch, no weights.

It understands colours and nothing else. An image's Gaussian comes from its colours; a text's from
its words, where colour words land near images of that colour, so that searching for "red" finds
the red picture without any model.

    >>> from PIL import Image
    >>> from prolip_search.testing import FakeEncoder
    >>> encoder = FakeEncoder()
    >>> images = encoder.encode_images([Image.new("RGB", (9, 9), c) for c in ("red", "blue")])
    >>> query = encoder.encode_texts(["something blue"])
    >>> (query.mean @ images.mean.T).argmax().item()
    1
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from prolip_search.distances import MatchLogit
from prolip_search.errors import ConfigError
from prolip_search.gaussians import Gaussians

__all__ = ["FakeEncoder"]

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "pink": (255, 192, 203),
    "brown": (139, 69, 19),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "gray": (128, 128, 128),
}

SIDE = 8  # pixels an image is reduced to
LONGEST_TEXT = 32  # words read
# A colour is remembered by its closeness to these corners of the RGB cube, each with a direction
# of its own, so that different colours get different directions in any dimension.
ANCHORS = np.array([(r, g, b) for r in (0, 1) for g in (0, 1) for b in (0, 1)], dtype=np.float64)


class FakeEncoder:
    """An `Encoder` of D dimensions that knows colours; the same input gives the same bits anywhere.

    The more colours an image has the more uncertain it is; the fewer words a text has the more
    uncertain it is. `n_images_encoded` and `n_texts_encoded` count what was asked of it, for tests
    that say how often something may be encoded. `salt` makes another encoder with another
    fingerprint in the same number of dimensions.
    """

    name = "fake"
    revision: str | None = None
    match_logit = MatchLogit(scale=10.0, bias=-5.0)
    image_size = SIDE

    def __init__(self, dim: int = 8, *, salt: str = "") -> None:
        if dim < 2:
            raise ConfigError(f"FakeEncoder needs at least 2 dimensions, not {dim}.")
        self.dim = dim
        self.fingerprint = hashlib.sha256(f"fake encoder 1/{dim}/{salt}".encode()).hexdigest()
        self.n_images_encoded = 0
        self.n_texts_encoded = 0
        self._salt = salt
        self._anchors = np.stack([self._direction(f"anchor {k}") for k in range(len(ANCHORS))])
        self._pixels = np.stack([self._direction(f"pixel {k}") for k in range(SIDE * SIDE * 3)])

    def __repr__(self) -> str:
        return f"FakeEncoder(dim={self.dim}, fingerprint={self.fingerprint[:8]})"

    def prepare_image(self, image: PillowImage.Image) -> npt.NDArray[np.uint8]:
        """One image -> uint8 [3, 8, 8], its colours averaged over a grid."""
        small = image.convert("RGB").resize((SIDE, SIDE), PillowImage.Resampling.BOX)
        return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))

    def encode_prepared(self, batch: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Gaussians:
        """[B, 3, 8, 8] -> Gaussians [B, D]."""
        pixels = np.asarray(batch, dtype=np.float64) / 255  # [B, 3, 8, 8]
        colours = pixels.transpose(0, 2, 3, 1).reshape(len(pixels), SIDE * SIDE, 3)
        mean = self._colour_directions(colours).mean(axis=1)  # [B, D]
        mean = mean + (colours - 0.5).reshape(len(pixels), SIDE * SIDE * 3) @ self._pixels * 0.01
        spread = colours.std(axis=1).mean(axis=1)  # [B], 0 where the image is of one colour
        self.n_images_encoded += len(pixels)
        return self._gaussians(mean, -7.0 + 2.0 * spread)

    def encode_images(self, images: Sequence[PillowImage.Image]) -> Gaussians:
        """B images -> Gaussians [B, D]."""
        shape = (0, 3, SIDE, SIDE)
        prepared = [self.prepare_image(image) for image in images]
        return self.encode_prepared(np.stack(prepared) if prepared else np.zeros(shape, np.uint8))

    def encode_texts(self, texts: Sequence[str]) -> Gaussians:
        """T texts -> Gaussians [T, D]; words past the 32nd are not read."""
        mean = np.zeros((len(texts), self.dim))
        level = np.zeros(len(texts))
        for row, text in enumerate(texts):
            words = _words(text)[:LONGEST_TEXT]
            colours = [COLOURS[word] for word in words if word in COLOURS]
            if colours:
                rgb = np.array(colours, dtype=np.float64)[None] / 255  # [1, n, 3]
                mean[row] += self._colour_directions(rgb)[0].mean(axis=0)
            others = [self._direction(word) for word in words if word not in COLOURS]
            if others:
                mean[row] += np.mean(others, axis=0) * (0.1 if colours else 1.0)
            if not words:
                mean[row] = self._direction("")
            level[row] = -3.0 - 0.2 * len(words)
        self.n_texts_encoded += len(texts)
        return self._gaussians(mean, level)

    def is_truncated(self, text: str) -> bool:
        """Whether `text` has more than 32 words."""
        return len(_words(text)) > LONGEST_TEXT

    def _colour_directions(self, colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """RGB [..., n, 3] in [0, 1] -> [..., n, D]."""
        distance = np.square(colours[..., None, :] - ANCHORS).sum(axis=-1)  # [..., n, 8]
        directions: npt.NDArray[np.float64] = np.exp(-4 * distance) @ self._anchors
        return directions

    def _gaussians(
        self, mean: npt.NDArray[np.float64], level: npt.NDArray[np.float64]
    ) -> Gaussians:
        """Unit means, and log-variances around `level` [B] that differ between dimensions."""
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        mean = np.where(length > 1e-9, mean / np.maximum(length, 1e-9), self._anchors[0])
        log_variance = level[:, None] + 0.3 * mean
        return Gaussians(mean.astype(np.float32), log_variance.astype(np.float32))

    def _direction(self, word: str) -> npt.NDArray[np.float64]:
        """A unit vector [D] that depends on nothing but the word: hash bits, no generator."""
        key = f"{self._salt}/{word}".encode()
        bits = hashlib.shake_128(key).digest(4 * self.dim)
        # the centred uniform numbers that 32 bits give: never all zero in practice
        vector = np.frombuffer(bits, dtype="<u4").astype(np.float64) / 2**32 - 0.5
        direction: npt.NDArray[np.float64] = vector / np.linalg.norm(vector)
        return direction


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
