"""What the recalls of the model card count."""

from __future__ import annotations

import numpy as np

from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation.recalls import retrieval

AXES = np.eye(4, dtype=np.float32)


def gaussians(mean: np.ndarray, log_variance: list[float]) -> Gaussians:
    """One log-variance for all dimensions of a row."""
    return Gaussians(mean, np.repeat(np.array(log_variance)[:, None], mean.shape[1], axis=1))


def test_perfect_retrieval_sums_to_six_hundred() -> None:
    images = gaussians(AXES, [-6] * 4)
    texts = gaussians(np.repeat(AXES, 2, axis=0), [-5] * 8)
    recalls = retrieval(images, texts, np.repeat(np.arange(4), 2))
    assert recalls["csd"].rsum == recalls["cosine"].rsum == 600


def test_any_of_an_images_captions_counts() -> None:
    images = gaussians(AXES[:2], [-6] * 2)
    texts = gaussians(AXES[[0, 1, 0, 1]], [-5] * 4)  # the second and third are mixed up
    recalls = retrieval(images, texts, np.array([0, 0, 1, 1]))["cosine"]
    assert recalls.t2i == (50, 100, 100)
    # Each image's best caption shares its place with one of the other's, and a tie is lost.
    assert recalls.i2t == (0, 100, 100)


def test_distractors_enlarge_only_the_gallery_of_images() -> None:
    images, texts = gaussians(AXES[:2], [-6] * 2), gaussians(AXES[:2], [-5] * 2)
    nearer = gaussians(AXES[:1], [-9])
    recalls = retrieval(images, texts, np.arange(2), distractors=nearer)["csd"]
    assert recalls.t2i[0] == 50
    assert recalls.i2t[0] == 100
