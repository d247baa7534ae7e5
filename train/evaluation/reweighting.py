"""Bayesian prompt re-weighting (BPRW, ProLIP §4): how much each template of a class is worth.

The prompts of a class are the components k of a mixture Σ_k π_k N(μ_k, σ_k² + ε), which do not
move. Images of the class, a few draws z from each one's Gaussian, say how probable each is. EM
finds the weights that maximise the log posterior

    Σ_z log Σ_k π_k N(z; μ_k, σ_k² + ε) + (α − 1) Σ_k log π_k .

It is concave in π: whatever EM starts from, with α > 1 there is one maximum and EM goes there,
uphill in every step. So the starting weights ∝ 1/mean σ_k² change how many steps it takes and not
where it ends. Each π_k is identified as long as no two components are the same Gaussian: finitely
many distinct Gaussians are linearly independent (Yakowitz & Spragins, 1968). Of two equal ones only
the sum is, and α > 1 shares it out equally.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from prolip_search.errors import ConfigError, TrainingDataError
from prolip_search.gaussians import Gaussians
from prolip_search.train.evaluation.prompts import ClassPrompts, Floats

__all__ = [
    "FEW_SHOT",
    "NEAREST",
    "Reweighting",
    "few_shots",
    "mixing_weights",
    "nearest_images",
    "reweighted",
]

Rows = npt.NDArray[np.int64]

# A weight never becomes 0, from which EM could not bring it back.
SMALLEST_WEIGHT = 1e-12


@dataclass(frozen=True)
class Reweighting:
    """The settings, by default those published for nearest neighbours: 5-1-10-10-0.02-inverse.

    alpha: α ≥ 1 of the symmetric Dirichlet prior; 1 is none. multiplier: of the prompts' variances.
    images: how many images of a class at most. draws: how many from each. epsilon: ε ≥ 0, added to
    the variances. start: the weights that EM starts from. reference: as released, where the
    multiplier is applied twice; the published settings have 1, so there it is the same.
    Raises ValueError for a setting out of its range.
    """

    alpha: float = 5.0
    multiplier: float = 1.0
    images: int = 10
    draws: int = 10
    epsilon: float = 0.02
    start: Literal["inverse", "uniform"] = "inverse"
    n_steps: int = 1000
    tolerance: float = 1e-12
    reference: bool = False

    def __post_init__(self) -> None:
        ranges = {
            "alpha": self.alpha >= 1,
            "multiplier": self.multiplier > 0,
            "images": self.images >= 1,
            "draws": self.draws >= 1,
            "epsilon": self.epsilon >= 0,
            "n_steps": self.n_steps >= 1,
            "start": self.start in ("inverse", "uniform"),
        }
        wrong = [name for name, right in ranges.items() if not right]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be {getattr(self, wrong[0])!r}.")

    @classmethod
    def parse(cls, label: str) -> Reweighting:
        """Settings from how the paper writes them, "5-1-10-10-0.02-inverse". Raises ConfigError."""
        parts = label.split("-")
        try:
            alpha, multiplier, images, draws, epsilon, start = parts
            return cls(
                float(alpha), float(multiplier), int(images), int(draws), float(epsilon),
                cast("Literal['inverse', 'uniform']", start),
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(
                f"Re-weighting settings are alpha-multiplier-images-draws-epsilon-start, such as "
                f"{NEAREST.label}, not {label!r} ({error})."
            ) from error

    @property
    def label(self) -> str:
        """How the paper writes them: alpha-multiplier-images-draws-epsilon-start."""
        numbers = (self.alpha, self.multiplier, self.images, self.draws, self.epsilon)
        return "-".join([*(f"{number:g}" for number in numbers), self.start])

    def widened(self, variance: Floats) -> Floats:
        """The variances that the components have in the mixture."""
        times = self.multiplier**2 if self.reference else self.multiplier
        return variance * times + self.epsilon

    def to_json(self) -> dict[str, Any]:
        """All settings."""
        return asdict(self)


NEAREST = Reweighting()
FEW_SHOT = Reweighting(alpha=2.0, images=5, draws=20)


def nearest_images(class_mean: Floats, images: Gaussians, n: int) -> Rows:
    """[C, n]: the images whose means are nearest to each class mean [C, D] in angle."""
    similarity = class_mean @ images.mean.T.astype(np.float64)
    n = min(n, len(images))
    return np.argsort(-similarity, axis=1, kind="stable")[:, :n].astype(np.int64)


def few_shots(labels: Rows, n_classes: int, n: int, seed: int) -> Rows:
    """[C, n]: n images of every class, drawn without replacement; −1 where it has no more.

    Raises TrainingDataError for a class without an image.
    """
    rng = np.random.default_rng(seed)
    chosen = np.full((n_classes, n), -1, dtype=np.int64)
    order = rng.permutation(len(labels))
    for label in range(n_classes):
        own = order[labels[order] == label][:n]
        if not len(own):
            raise TrainingDataError(f"Class {label} has no image to learn weights from.")
        chosen[label, : len(own)] = own
    return chosen


def reweighted(
    prompts: ClassPrompts,
    images: Gaussians,
    rows: Rows,
    settings: Reweighting = NEAREST,
    seed: int = 0,
) -> Floats:
    """The weights [C, K] of every class's prompts, each row summing to 1.

    rows [C, n]: the images of each class, −1 for none. Of each, `settings.draws` are drawn.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty(prompts.shape)
    for classes in prompts.blocks():
        draws, counts = _drawn(images, rows[classes], settings.draws, rng)
        variance = prompts.variance(classes)
        logs = log_densities(draws, prompts.mean(classes), settings.widened(variance))
        weights[classes] = mixing_weights(logs, counts, _start(variance, settings), settings)
    return weights


def log_densities(draws: Floats, mean: Floats, variance: Floats) -> Floats:
    """log N(z; μ_k, diag σ_k²): draws [c, S, D], components [c, K, D] -> [c, S, K], in nats.

    The square is multiplied out, so that there are three matrix products and no [c, S, K, D].
    """
    precision = 1 / variance
    constant = (np.log(2 * np.pi * variance) + mean * mean * precision).sum(axis=-1)
    crossed = draws @ (mean * precision).swapaxes(1, 2)
    squared = (draws * draws) @ precision.swapaxes(1, 2)
    return np.asarray(-0.5 * (constant[:, None] + squared) + crossed)


def mixing_weights(logs: Floats, counts: Floats, start: Floats, settings: Reweighting) -> Floats:
    """The weights [c, K] that EM arrives at, from log-densities [c, S, K].

    counts [c, S]: how often each draw counts, 0 for one that is not there. start [c, K]: any
    positive numbers.
    """
    *_, weights = em_steps(logs, counts, start, settings)  # all of them one and the same array
    return weights


def em_steps(
    logs: Floats, counts: Floats, start: Floats, settings: Reweighting
) -> Iterator[Floats]:
    """The weights [c, K] after every step, in one array that the next step changes.

    All classes take their steps together; those that have arrived stay where they are.
    """
    # A factor for each draw changes nothing, and with the largest density at 1 no sum can vanish.
    densities = np.exp(logs - logs.max(axis=2, keepdims=True))
    weights = _normalised(np.maximum(start, SMALLEST_WEIGHT))
    moving = np.arange(len(weights))
    for _ in range(settings.n_steps):
        before = weights[moving]
        after = _step(densities, counts, before, settings.alpha)
        weights[moving] = after
        yield weights
        still = np.abs(after - before).max(axis=1) > settings.tolerance
        if not still.all():
            moving, densities, counts = moving[still], densities[still], counts[still]
        if not len(moving):
            return


def log_posterior(logs: Floats, counts: Floats, weights: Floats, alpha: float) -> Floats:
    """What EM climbs, [c], in nats, up to a constant of the prior."""
    largest = logs.max(axis=2)
    densities = np.exp(logs - largest[:, :, None])
    mixture = np.log((densities @ weights[:, :, None])[:, :, 0]) + largest
    prior = (alpha - 1) * np.log(weights).sum(axis=1)
    return np.asarray((counts * mixture).sum(axis=1) + prior)


def _step(densities: Floats, counts: Floats, weights: Floats, alpha: float) -> Floats:
    """π_k = (N_k + α − 1)/(N + K(α − 1)), N_k the draws that component k answers for.

    N_k = π_k Σ_z p_zk / Σ_j π_j p_zj: two products with vectors, no responsibilities kept.
    """
    mixture = (densities @ weights[:, :, None])[:, :, 0]
    answered = weights * ((counts / mixture)[:, None, :] @ densities)[:, 0]
    n_components = weights.shape[1]
    total = counts.sum(axis=1, keepdims=True) + n_components * (alpha - 1)
    return _normalised(np.maximum((answered + alpha - 1) / total, SMALLEST_WEIGHT))


def _start(variance: Floats, settings: Reweighting) -> Floats:
    if settings.start == "uniform":
        return np.ones(variance.shape[:2])
    return _normalised(1 / variance.mean(axis=-1))


def _normalised(weights: Floats) -> Floats:
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _drawn(
    images: Gaussians, rows: Rows, n_draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draws [c, S, D] from the images of each class and their counts [c, S], S = n · n_draws."""
    mean = images.mean[rows].astype(np.float64)
    deviation = np.exp(0.5 * images.log_variance[rows].astype(np.float64))
    # One stream of numbers, class after class: the size of a block does not change them.
    noise = rng.standard_normal((*rows.shape, n_draws, images.dim))
    draws = mean[:, :, None] + deviation[:, :, None] * noise
    counts = np.repeat((rows >= 0).astype(np.float64), n_draws, axis=1)
    return draws.reshape(len(rows), -1, images.dim), counts
