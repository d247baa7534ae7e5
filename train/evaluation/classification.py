"""Zero-shot classification: an image belongs to the class whose Gaussian is nearest to it.

A class is one Gaussian, made of those of its prompts. The score is μ_img · w, w the class's mean,
and with uncertainty μ_img · w − u_class/2, which orders classes as CSD does (the image's own
uncertainty is the same for all). Published logits are these times 100.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from prolip_search.errors import TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation.prompts import ClassPrompts, Floats, Kept

__all__ = [
    "Accuracy", "ClassGaussians", "accuracy", "average", "class_ranks", "keep_greedily", "mixed",
]  # fmt: skip

Labels = npt.NDArray[np.int64]
N_IMAGES_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """One Gaussian a class. mean [C, D], of unit length unless re-weighted; variance [C, D]."""

    mean: Floats
    variance: Floats

    @property
    def uncertainty(self) -> Floats:
        """u of every class, [C]."""
        return np.asarray(self.variance.sum(axis=1))


@dataclass(frozen=True)
class Accuracy:
    """Shares of images, 0 to 1; mean_per_class counts every class that has images alike."""

    top1: float
    top5: float
    mean_per_class: float

    def to_json(self) -> dict[str, float]:
        """The three."""
        return asdict(self)


def average(prompts: ClassPrompts, kept: Kept | None = None) -> ClassGaussians:
    """The published class: the normalised mean of unit means, and the mean of the variances.

    kept [C, K]: only of these prompts, at least one of each class; else of all.
    """
    chosen = np.ones(prompts.shape, dtype=bool) if kept is None else kept
    if not chosen.any(axis=1).all():
        raise ValueError("Every class needs at least one prompt.")
    weights = chosen / chosen.sum(axis=1, keepdims=True)
    mean, variance = _weighted(prompts, weights, weights)
    return ClassGaussians(_unit(mean), variance)


def mixed(prompts: ClassPrompts, weights: Floats, *, normalise: bool = False) -> ClassGaussians:
    """The class of weighted prompts, as published for re-weighting: Σ π μ and Σ π² σ².

    weights π [C, K], each row summing to 1. The published mean is not normalised, so a class whose
    prompts disagree has a shorter mean and scores lower against everything; `normalise` ends that.
    """
    mean, variance = _weighted(prompts, weights, weights * weights)
    return ClassGaussians(_unit(mean) if normalise else mean, variance)


def class_ranks(
    images: Gaussians, classes: ClassGaussians, labels: Labels, *, with_uncertainty: bool
) -> Labels:
    """The rank of each image's own class, [N], 0 for the best; of equal scores the first wins."""
    ranks = np.empty(len(images), dtype=np.int64)
    for rows, scores in _scores(images, classes, with_uncertainty):
        own_label = labels[rows, None]
        own = np.take_along_axis(scores, own_label, axis=1)
        earlier = np.arange(scores.shape[1]) < own_label
        ranks[rows] = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return ranks


def accuracy(ranks: Labels, labels: Labels) -> Accuracy:
    """Top-1, top-5 and mean-per-class accuracy from the ranks [N] of the right classes."""
    first = (ranks == 0).astype(np.float64)
    of_class = np.bincount(labels, weights=first) / np.maximum(np.bincount(labels), 1)
    return Accuracy(
        top1=float(first.mean()),
        top5=float((ranks < 5).mean()),
        mean_per_class=float(of_class[np.unique(labels)].mean()),
    )


def keep_greedily(
    prompts: ClassPrompts, images: Gaussians, labels: Labels, *, with_uncertainty: bool
) -> Kept:
    """The fourth filter: class by class the k whose least uncertain prompts serve best.

    Labelled images say how well: the number classified right, all other classes as chosen so far,
    at first with all their prompts. Of equally good k the largest stays. One pass, so K·C looks at
    the images; never look at those that the result is measured on.
    """
    if not len(images):
        raise TrainingDataError("There are no labelled images to choose prompts by.")
    n_classes, n_templates = prompts.shape
    scores = np.concatenate(
        [some for _, some in _scores(images, average(prompts), with_uncertainty)]
    )
    mean = images.mean.astype(np.float64)
    order = np.argsort(prompts.uncertainty, axis=1, kind="stable")
    chosen = np.full(n_classes, n_templates)
    for label in range(n_classes):
        offered = _score(mean, _growing(prompts, label, order[label]), with_uncertainty)  # [N, K]
        scores[:, label] = -np.inf
        rival = scores.max(axis=1)
        own = labels == label
        right = (scores[np.arange(len(images)), labels] >= rival) & ~own
        won = offered > rival[:, None]
        n_right = won[own].sum(axis=0) + (right[:, None] & ~won)[~own].sum(axis=0)
        chosen[label] = n_templates - int(np.argmax(n_right[::-1]))
        scores[:, label] = offered[:, chosen[label] - 1]
    return np.asarray(np.argsort(order, axis=1) < chosen[:, None])


def _growing(prompts: ClassPrompts, label: int, order: Labels) -> ClassGaussians:
    """The class from its 1, 2 … K first prompts in an order [K]: K rows."""
    one = slice(label, label + 1)
    sizes = np.arange(1, len(order) + 1)[:, None]
    mean = np.cumsum(prompts.mean(one)[0][order], axis=0) / sizes
    variance = np.cumsum(prompts.variance(one)[0][order], axis=0) / sizes
    return ClassGaussians(_unit(mean), variance)


def _weighted(
    prompts: ClassPrompts, for_mean: Floats, for_variance: Floats
) -> tuple[Floats, Floats]:
    """Σ_k of means and of variances, [C, D] each, with weights [C, K]."""
    means, variances = [], []
    for classes in prompts.blocks():
        means.append((for_mean[classes, None] @ prompts.mean(classes))[:, 0])
        variances.append((for_variance[classes, None] @ prompts.variance(classes))[:, 0])
    return np.concatenate(means), np.concatenate(variances)


def _scores(
    images: Gaussians, classes: ClassGaussians, with_uncertainty: bool
) -> Iterator[tuple[slice, Floats]]:
    """Scores [n, C] of some images at a time."""
    for first in range(0, len(images), N_IMAGES_AT_ONCE):
        rows = slice(first, first + N_IMAGES_AT_ONCE)
        mean = images.mean[rows].astype(np.float64)
        yield rows, _score(mean, classes, with_uncertainty)


def _score(mean: Floats, classes: ClassGaussians, with_uncertainty: bool) -> Floats:
    scores = mean @ classes.mean.T
    return np.asarray(scores - classes.uncertainty / 2 if with_uncertainty else scores)


def _unit(mean: Floats) -> Floats:
    lengths = np.linalg.norm(mean, axis=1, keepdims=True)
    return np.asarray(mean / np.maximum(lengths, 1e-12))
