"""Classes and prompts with known properties, for tests of classification."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation.prompts import ClassPrompts


def random_prompts(
    n_classes: int, n_templates: int, dim: int, seed: int, spread: float = 1.0
) -> ClassPrompts:
    """Prompts around a direction of each class; their variances differ by an order of magnitude."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_classes, 1, dim))
    mean = centres + spread * rng.standard_normal((n_classes, n_templates, dim))
    log_variance = rng.uniform(-7, -4, (n_classes, n_templates, 1)) * np.ones(dim)
    return ClassPrompts(
        [f"class {c}" for c in range(n_classes)],
        [f"{{}} in template {k}" for k in range(n_templates)],
        Gaussians.from_raw(mean.reshape(-1, dim), log_variance.reshape(-1, dim)),
    )


def random_images(n: int, dim: int, seed: int) -> Gaussians:
    """Images in all directions."""
    rng = np.random.default_rng(seed)
    return Gaussians.from_raw(rng.standard_normal((n, dim)), rng.uniform(-7, -4, (n, dim)))


def noisy_templates(
    n_images: int, seed: int, n_classes: int = 6, dim: int = 32
) -> tuple[ClassPrompts, Gaussians, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """A world whose images come from three of six templates with known weights.

    The other three point half-way to the next class. Returns prompts, images, labels and weights
    [6]: each image is one draw from the component of its template.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([0.5, 0.3, 0.2, 0.0, 0.0, 0.0])
    centres = rng.standard_normal((n_classes, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    own = centres[:, None] + 0.09 * rng.standard_normal((n_classes, 3, dim))
    wrong = 1.3 * np.roll(centres, 1, axis=0)[:, None] + 0.3 * centres[:, None]
    wrong = wrong + 0.09 * rng.standard_normal((n_classes, 3, dim))
    mean = np.concatenate([own, wrong], axis=1)
    mean /= np.linalg.norm(mean, axis=2, keepdims=True)
    log_variance = np.full(mean.shape, np.log(0.02))
    prompts = ClassPrompts(
        [f"class {c}" for c in range(n_classes)],
        [f"{{}} in template {k}" for k in range(6)],
        Gaussians(mean.reshape(-1, dim), log_variance.reshape(-1, dim)),
    )
    labels = np.repeat(np.arange(n_classes), n_images)
    template = rng.choice(6, size=len(labels), p=weights)
    raw = mean[labels, template] + np.sqrt(0.02) * rng.standard_normal((len(labels), dim))
    images = Gaussians.from_raw(raw, np.full(raw.shape, -9.0))
    return prompts, images, labels, weights
