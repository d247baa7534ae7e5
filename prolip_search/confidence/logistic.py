"""Ridge logistic regression by Newton's method, with a covariance that knows about queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

N_STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class Pull:
    """Where a fit is drawn to when labels are few: weights [F], and the intercept less strongly.

    intercept_penalty: the ridge on (intercept − its target); the weights have the fit's own.
    """

    weights: Doubles
    intercept: float
    intercept_penalty: float


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """log odds = features · weights + intercept. covariance [F + 1, F + 1], the intercept last."""

    weights: Doubles
    intercept: float
    covariance: Doubles


def sigmoid(logits: Doubles) -> Doubles:
    """1 / (1 + exp −z) of any shape, without overflow."""
    small = np.exp(-np.abs(logits))
    probabilities: Doubles = np.where(logits >= 0, 1.0, small) / (1.0 + small)
    return probabilities


def fit_logistic(
    features: Doubles,
    labels: NDArray[np.bool_],
    *,
    penalty: float,
    weights: Doubles | None = None,
    groups: NDArray[np.integer] | None = None,
    pull: Pull | None = None,
) -> LogisticFit:
    """Minimises Σ w log loss + ½ penalty ‖weights − pull‖²; the intercept is free without a pull.

    features [n, F], best standardised; labels [n]; weights [n] > 0 are scaled to mean 1.
    groups [n]: rows of one group (query) go together; without them each row stands alone. The
    covariance is A⁻¹ B A⁻¹, A the Hessian of the penalised loss and B the clustered scores (Liang
    & Zeger 1986), each as a fit without its cluster sees it (CR3, Bell & McCaffrey 2002), and the
    square of the ridge's own bias, without which bands were a fifth too narrow. Raises ValueError
    for no rows, and for labels of one class only when nothing pulls the intercept: it would run
    off to infinity.
    """
    n, n_features = features.shape
    y = np.asarray(labels, dtype=np.float64)
    if n == 0 or (pull is None and (y.all() or not y.any())):
        raise ValueError("A logistic fit needs rows of both labels.")
    row_weights = np.ones(n) if weights is None else weights / weights.mean()
    x = np.concatenate([features, np.ones((n, 1))], axis=1)
    ridge = np.full(n_features + 1, penalty)
    ridge[-1] = 0.0 if pull is None else pull.intercept_penalty
    target = np.zeros(n_features + 1)
    if pull is not None:
        target[:-1], target[-1] = pull.weights, pull.intercept

    def loss(theta: Doubles) -> float:
        z = x @ theta
        fit = row_weights @ (np.logaddexp(0.0, z) - y * z)
        return float(fit + 0.5 * ridge @ (theta - target) ** 2)

    theta = target.copy()
    if pull is None:
        share = float(row_weights @ y) / n
        theta[-1] = np.log(share / (1 - share))
    current = loss(theta)
    for _ in range(N_STEPS):
        probability = sigmoid(x @ theta)
        gradient = x.T @ (row_weights * (probability - y)) + ridge * (theta - target)
        hessian = _hessian(x, row_weights, probability, ridge)
        step = np.linalg.solve(hessian, gradient)
        if float(gradient @ step) < TOLERANCE**2:
            break
        length = 1.0
        while loss(theta - length * step) > current and length > 1e-6:
            length /= 2  # Newton overshoots where the loss is flat
        theta = theta - length * step
        current = loss(theta)
    return LogisticFit(
        theta[:-1],
        float(theta[-1]),
        _covariance(x, y, row_weights, theta, target, ridge, groups, pulled=pull is not None),
    )


def _covariance(
    x: Doubles,
    y: Doubles,
    row_weights: Doubles,
    theta: Doubles,
    target: Doubles,
    ridge: Doubles,
    groups: NDArray[np.integer] | None,
    *,
    pulled: bool,
) -> Doubles:
    """The clustered sandwich of a ridge fit, [F + 1, F + 1]: see `fit_logistic`."""
    probability = sigmoid(x @ theta)
    hessian = _hessian(x, row_weights, probability, ridge)
    cluster = np.arange(len(x)) if groups is None else np.unique(groups, return_inverse=True)[1]
    n_clusters, n_columns = int(cluster.max()) + 1, x.shape[1]
    scores = np.zeros((n_clusters, n_columns))
    np.add.at(scores, cluster, x * (row_weights * (y - probability))[:, None])
    if n_clusters > 1:
        # Each group's score as a fit without that group sees it: few groups sway their own fit.
        own = np.zeros((n_clusters, n_columns, n_columns))
        curvature = row_weights * probability * (1 - probability)
        np.add.at(own, cluster, x[:, :, None] * (x * curvature[:, None])[:, None, :])
        scores = np.linalg.solve(hessian - own, scores[:, :, None])[:, :, 0] @ hessian
        scores *= np.sqrt((n_clusters - 1) / n_clusters)
    drawn = ridge * (theta - target)  # what the ridge does to the estimate: its bias
    meat = scores.T @ scores + np.outer(drawn, drawn)
    if pulled:
        meat += np.diag(ridge)  # shipped weights may be off here by as much as the ridge lets them
    bread = np.linalg.inv(hessian)
    covariance: Doubles = bread @ meat @ bread
    return covariance


def _hessian(x: Doubles, row_weights: Doubles, probability: Doubles, ridge: Doubles) -> Doubles:
    curvature = row_weights * probability * (1 - probability)
    # A hair of ridge keeps a constant feature, or a perfectly separated set, solvable.
    hessian: Doubles = (x * curvature[:, None]).T @ x + np.diag(ridge + 1e-9)
    return hessian
