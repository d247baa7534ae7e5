"""Seeded Gaussians that lie as an encoder's do: for benchmarks of any size, the same everywhere.

Topics of very different size overlap, directions matter unequally, images and texts lie in cones of
their own with a gap between them, and a text mixes two topics more coarsely than any image does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from prolip_search.gaussians import Gaussians

N_TOPICS = 3000
TOPIC, DETAIL = 0.8, 1.0  # lengths of a topic's own direction and of an item's around it
CONE = 1.0  # length of what all images share, or all texts
GAP = 1.2  # length of what separates the two
SPECTRUM = 0.6  # coordinate j has the scale (1 + j/32) to the minus this
BLOCK = 32_768  # items drawn from one seed
# Realistic: uncertainties of about 0.005 to 0.06 at D = 512. Wide: of 0 to 0.5.
LOG_VARIANCE = (-11.0, 0.35)


def images(n: int, dim: int, seed: int, *, wide: bool = False) -> Gaussians:
    """n items, all at once."""
    return Gaussians.concatenate(image_blocks(n, dim, seed, wide=wide))


def image_blocks(n: int, dim: int, seed: int, *, wide: bool = False) -> Iterator[Gaussians]:
    """The same n items, BLOCK at a time."""
    for number, start in enumerate(range(0, n, BLOCK)):
        size = min(BLOCK, n - start)
        yield _drawn(size, dim, np.random.default_rng([seed, number]), is_text=False, wide=wide)


def texts(n: int, dim: int, seed: int, *, wide: bool = False) -> Gaussians:
    """n queries off the items' distribution, twice as uncertain."""
    return _drawn(n, dim, np.random.default_rng([seed, 1 << 20]), is_text=True, wide=wide)


def _drawn(n: int, dim: int, rng: np.random.Generator, *, is_text: bool, wide: bool) -> Gaussians:
    common = np.random.default_rng(12345)
    scale = (1 + np.arange(dim) / 32) ** -SPECTRUM
    scale = (scale / np.linalg.norm(scale)).astype(np.float32)  # a drawn row has length about 1
    topics = common.standard_normal((N_TOPICS, dim), np.float32) * scale
    cone, gap = common.standard_normal((2, dim), np.float32) / np.float32(np.sqrt(dim))
    weights = 1 / (20.0 + np.arange(N_TOPICS))
    weights /= weights.sum()

    def topic() -> NDArray[np.float32]:
        return topics[rng.choice(N_TOPICS, n, p=weights)]

    direction = (topic() + topic()) / np.float32(np.sqrt(2)) if is_text else topic()
    detail = rng.standard_normal((n, dim), np.float32) * scale
    mean = TOPIC * direction + DETAIL * detail + CONE * cone + (GAP if is_text else 0.0) * gap
    level, spread = LOG_VARIANCE
    if wide:
        levels = np.log(rng.uniform(1e-4, 0.5, (n, 1)) / dim) - spread**2 / 2
    else:
        levels = level + rng.standard_normal((n, 1)) * 2 * spread
    levels = levels + (np.log(2.0) if is_text else 0.0)
    log_variance = rng.standard_normal((n, dim), np.float32) * np.float32(spread)
    log_variance += levels.astype(np.float32)
    return Gaussians.from_raw(mean, log_variance)
