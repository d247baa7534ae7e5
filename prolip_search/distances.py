"""The closed-form mathematics between Gaussians, as pure functions of arrays.

Each function takes two sets of diagonal Gaussians: anything with a unit `mean` and a
`log_variance`, both [N, D], NumPy arrays or torch tensors alike (`Gaussians`, or `Arrays` around
tensors), and gives back the same kind of array in the same precision. Torch is never imported
from here. The plain name gives every pair ([Q, N]); the name with `_rows` pairs row with row ([N]).

Sources: PCME++ (Chun, ICLR 2024), ProLIP (Chun et al., arXiv 2410.18857). With a = σ₁², c = σ₂²
and δ = μ₁ − μ₂, per dimension. Ratios of variances are differences of log-variances. Sums of
variances are formed directly: for the log-variances that `Gaussians` admits (±60) neither they nor
the quotients below leave the range of float32, and no cancellation takes place in them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
Metric = Literal["inner_product", "l2"]

# Pairs × dimensions that exist at once in a pairwise function. NumPy goes over an array once for
# every operation: half a MiB of float32 stays in the cache meanwhile, 3 MiB took six times as long.
BLOCK_ELEMENTS = 1 << 17
TENSOR_BLOCK_ELEMENTS = 1 << 22


class GaussianLike(Protocol[A_co]):
    """Anything that has a mean [N, D] and a log-variance [N, D]."""

    @property
    def mean(self) -> A_co: ...

    @property
    def log_variance(self) -> A_co: ...


class Arrays(NamedTuple):
    """Gaussians without the checks: how torch code hands its own tensors to this module."""

    mean: Any
    log_variance: Any


@dataclass(frozen=True)
class MatchLogit:
    """The learned line from distance to match logit that travels with an encoder.

    scale: s > 0, bias: b. Raises ValueError when they are not finite or the scale is not positive.
    """

    scale: float
    bias: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.bias) and self.scale > 0):
            raise ValueError(
                f"A match logit needs a finite bias and a positive, finite scale, "
                f"not scale {self.scale} and bias {self.bias}."
            )

    def logit(self, distance: A) -> A:
        """ℓ = s · (1 − CSD/2) + b, of the same shape as the distance."""
        return match_logit(distance, self.scale, self.bias)

    def probability(self, distance: A) -> A:
        """sigmoid(ℓ) in [0, 1], the model's own match probability: not a calibrated confidence."""
        xp = _namespace(distance)
        return cast("A", 0.5 * (1 + xp.tanh(0.5 * cast("Any", self.logit(distance)))))


def uncertainty(gaussians: GaussianLike[A]) -> A:
    """u = Σ_d σ_d², the trace of the covariance: [N], > 0, larger is more uncertain."""
    log_variance: Any = gaussians.log_variance
    return cast("A", _namespace(log_variance).exp(log_variance).sum(-1))


def csd(queries: GaussianLike[A], items: GaussianLike[A]) -> A:
    """Closed-form sampled distance E‖z₁ − z₂‖² = ‖μ₁ − μ₂‖² + u₁ + u₂ (PCME++, eq. 1).

    queries [Q, D], items [N, D] -> [Q, N], at least u₁ + u₂; smaller is closer.
    Costs one matrix product.
    """
    m1: Any = queries.mean
    m2: Any = items.mean
    squared = (m1 * m1).sum(-1)[:, None] + (m2 * m2).sum(-1)[None] - 2 * (m1 @ m2.T)
    u1: Any = uncertainty(queries)
    u2: Any = uncertainty(items)
    # Rounding may leave a squared length just below zero.
    return cast("A", squared.clip(0) + (u1[:, None] + u2[None]))


def csd_rows(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """CSD of each row with the row beside it: [N, D], [N, D] -> [N]."""
    delta: Any = cast("Any", first.mean) - cast("Any", second.mean)
    u1: Any = uncertainty(first)
    return cast("A", (delta * delta).sum(-1) + u1 + uncertainty(second))


def match_logit(distance: A, scale: Any, bias: Any) -> A:
    """ℓ = s · (1 − CSD/2) + b, what PPCL trains (ProLIP, eq. 2): any shape -> the same shape."""
    return cast("A", scale * (1 - cast("Any", distance) / 2) + bias)


def overlap(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """J(1,2) = log ∫ p₁² p₂: [N₁, D], [N₂, D] -> [N₁, N₂] nats, any sign.

    For a fixed first it orders the seconds by how well the first lies inside them. Costs N₁·N₂·D.
    """
    return _pairwise(_overlap, first, second)


def overlap_rows(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """J of each row with the row beside it: [..., D], [..., D] -> [...]."""
    return cast("A", _overlap(_with_variance(first), _with_variance(second)))


def inclusion(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """H(1 ⊂ 2) = J(1,2) − J(2,1): [N₁, D], [N₂, D] -> [N₁, N₂], in nats.

    Positive says that the second is the more general of the two, dimension by dimension; it is a
    direction and not a membership: it does not fall with distance. Antisymmetric. Costs N₁·N₂·D.
    """
    return _pairwise(_inclusion, first, second)


def inclusion_rows(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """H of each row with the row beside it: [..., D], [..., D] -> [...]."""
    return cast("A", _inclusion(_with_variance(first), _with_variance(second)))


def membership(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """M(1|2) = J(1,2) − log ∫ p₁² = log N(μ₁; μ₂, diag(a/2 + c)), in nats.

    [N₁, D], [N₂, D] -> [N₁, N₂]. For a fixed second it orders the firsts by "lies inside it",
    which J does not. About 1e4 nats apart at ProLIP's scale: order by it, never exponentiate.
    """
    return _pairwise(_membership, first, second)


def membership_rows(first: GaussianLike[A], second: GaussianLike[A]) -> A:
    """M of each row with the row beside it: [..., D], [..., D] -> [...]."""
    return cast("A", _membership(_with_variance(first), _with_variance(second)))


def kl_to_prior(gaussians: GaussianLike[A]) -> A:
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ_d (μ² + σ² − 1 − log σ²): [N], >= 0, in nats."""
    mean: Any = gaussians.mean
    log_variance: Any = gaussians.log_variance
    variance = _namespace(mean).exp(log_variance)
    return cast("A", 0.5 * (mean * mean + variance - 1 - log_variance).sum(-1))


def augment_items(items: GaussianLike[A], metric: Metric = "inner_product") -> A:
    """Items as plain vectors [N, D + 1] whose order under the metric is the order by CSD.

    inner_product: [μ, −u/2], descending; l2: [μ, √u], ascending, and then
    CSD − u_q = ‖[μ_q, 0] − [μ, √u]‖². Both exact. Raises ValueError for another metric.
    """
    mean: Any = items.mean
    xp = _namespace(mean)
    u: Any = uncertainty(items)
    last = -0.5 * u if _checked(metric) == "inner_product" else xp.sqrt(u)
    return cast("A", xp.concatenate((mean, last[:, None]), 1))


def augment_queries(queries: GaussianLike[A], metric: Metric = "inner_product") -> A:
    """Queries as plain vectors [Q, D + 1] to go with `augment_items`: [μ, 1], or [μ, 0] for l2."""
    mean: Any = queries.mean
    xp = _namespace(mean)
    last = xp.ones_like(mean[:, :1]) * (1.0 if _checked(metric) == "inner_product" else 0.0)
    return cast("A", xp.concatenate((mean, last), 1))


def _checked(metric: str) -> str:
    if metric not in ("inner_product", "l2"):
        raise ValueError(f"The metric is 'inner_product' or 'l2', not {metric!r}.")
    return metric


def _namespace(array: Any) -> Any:
    """torch for a tensor, NumPy for all else. A tensor cannot exist before torch is imported."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


class _Terms(NamedTuple):
    """Gaussians whose variances were formed once, not for every pair that they are part of."""

    mean: Any
    log_variance: Any
    variance: Any

    def rows(self, at: Any) -> _Terms:
        return _Terms(self.mean[at], self.log_variance[at], self.variance[at])


def _with_variance(gaussians: GaussianLike[Any]) -> _Terms:
    log_variance = gaussians.log_variance
    return _Terms(gaussians.mean, log_variance, _namespace(log_variance).exp(log_variance))


def _overlap(first: _Terms, second: _Terms) -> Any:
    delta = first.mean - second.mean
    wide = first.variance + 2 * second.variance
    log_term = math.log(4 * math.pi**2) + first.log_variance + _namespace(wide).log(wide)
    return (-0.5 * log_term - delta * delta / wide).sum(-1)


def _inclusion(first: _Terms, second: _Terms) -> Any:
    a, c, delta = first.variance, second.variance, first.mean - second.mean
    first_wide, second_wide = 2 * a + c, a + 2 * c
    # One quotient at a time: the product of the two sums can leave the range of float32.
    mean_term = delta * delta * ((c - a) / first_wide) / second_wide
    # Their own quotient lies in 1/2 to 2, so that one logarithm will do.
    log_term = _namespace(a).log(first_wide / second_wide)
    log_term = second.log_variance - first.log_variance + log_term
    return 0.5 * log_term.sum(-1) + mean_term.sum(-1)


def _membership(first: _Terms, second: _Terms) -> Any:
    delta = first.mean - second.mean
    variance = 0.5 * first.variance + second.variance
    log_term = math.log(2 * math.pi) + _namespace(variance).log(variance)
    return -0.5 * (log_term + delta * delta / variance).sum(-1)


def _pairwise(
    of_rows: Callable[[_Terms, _Terms], Any], first: GaussianLike[A], second: GaussianLike[A]
) -> A:
    """`of_rows` of every pair, [N₁, N₂], in blocks that bound the [n₁, n₂, D] in between."""
    left, right = _with_variance(first), _with_variance(second)
    xp = _namespace(left.mean)
    n_first, (n_second, dim) = len(left.mean), right.mean.shape
    n_pairs = (BLOCK_ELEMENTS if xp is np else TENSOR_BLOCK_ELEMENTS) // max(1, dim)
    across = max(1, min(n_pairs, n_second))
    down = max(1, n_pairs // across)
    rows = [
        xp.concatenate(
            [
                of_rows(
                    left.rows((slice(i, i + down), None)),
                    right.rows((None, slice(j, j + across))),
                )
                for j in range(0, max(1, n_second), across)
            ],
            1,
        )
        for i in range(0, max(1, n_first), down)
    ]
    return cast("A", xp.concatenate(rows, 0))
