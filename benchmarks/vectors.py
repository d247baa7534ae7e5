"""Seeded Gaussians that lie as an encoder's do: for benchmarks of any size, the same everywhere."""

from __future__ import annotations

import numpy as np

from prolip_search.gaussians import Gaussians

N_CLUSTERS = 512
CLUSTER_SPREAD = 0.8  # length of the noise around a unit centre
MODALITY_GAP = 0.7  # length of what separates texts from images
LOG_VARIANCE = (-11.0, 0.35)  # mean and spread; at D = 512 uncertainties of about 0.005 to 0.06


def images(n: int, dim: int, seed: int) -> Gaussians:
    """n items: unit means around common centres, uncertainties that differ between items."""
    return _drawn(n, dim, seed, gap=0.0)


def texts(n: int, dim: int, seed: int) -> Gaussians:
    """n queries around the same centres, shifted as texts are from images, twice as uncertain."""
    return _drawn(n, dim, seed, gap=MODALITY_GAP)


def _drawn(n: int, dim: int, seed: int, *, gap: float) -> Gaussians:
    common = np.random.default_rng(12345)
    centres = common.standard_normal((N_CLUSTERS, dim), np.float32) / np.sqrt(dim)
    direction = common.standard_normal(dim, np.float32) / np.sqrt(dim)
    rng = np.random.default_rng(seed)
    mean = centres[rng.integers(N_CLUSTERS, size=n)]
    mean += rng.standard_normal((n, dim), np.float32) * np.float32(CLUSTER_SPREAD / np.sqrt(dim))
    mean += gap * direction
    level, spread = LOG_VARIANCE
    level += np.log(2.0) if gap else 0.0
    log_variance = rng.standard_normal((n, 1), np.float32) * 2 * spread + level
    log_variance = log_variance + rng.standard_normal((n, dim), np.float32) * spread
    return Gaussians.from_raw(mean, log_variance)
