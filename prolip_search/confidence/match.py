"""The confidence of a result: how likely a person would say "yes, this fits"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.features import MATCH_FEATURES
from prolip_search.confidence.logistic import LogisticFit, Pull, fit_logistic, sigmoid

Doubles = NDArray[np.float64]

N_FEATURES = len(MATCH_FEATURES)
# Of the band that is shown: 90 % of a normal distribution.
BAND_Z = 1.645
# Up to this many rows the ridge is strong; beyond, the rows speak for themselves.
FEW_ROWS = 200
# How hard a fit holds on to a shipped intercept: twenty labels move it most of the way.
INTERCEPT_PENALTY = 0.3
# Weights of rows are cut here, in multiples of their mean, so that no single label rules the fit.
LARGEST_WEIGHT = 5.0


@dataclass(frozen=True, eq=False)
class MatchModel:
    """σ(w·φ̃ + c), φ̃ = (φ − center) / scale, over MATCH_FEATURES.

    center, scale, weights [6]; the weight of the logit is >= 0, and 0 only for an encoder without
    information. covariance [7, 7] is that of (weights, intercept). n_judged: rows that it rests on.
    """

    center: Doubles
    scale: Doubles
    weights: Doubles
    intercept: float
    covariance: Doubles
    n_judged: int

    def log_odds(self, logits: Doubles, context: Doubles) -> Doubles:
        """log odds of a match: ℓ [Q, n], context [Q, 5] of the queries -> [Q, n]."""
        query = (context - self.center[1:]) / self.scale[1:]
        # Sums over an axis and not matrix products: a row's value must not depend on the batch.
        offset = (query * self.weights[1:]).sum(axis=1) + self.intercept
        log_odds: Doubles = self._standard(logits) * self.weights[0] + offset[:, None]
        return log_odds

    def log_odds_deviation(self, logits: Doubles, context: Doubles) -> Doubles:
        """The standard deviation of `log_odds` that the calibration leaves: [Q, n], >= 0."""
        query = (context - self.center[1:]) / self.scale[1:]
        query = np.concatenate([query, np.ones((len(query), 1))], axis=1)  # [Q, 6]
        # A quadratic of ℓ̃ for each query: nothing of size [Q, n, 7] is made.
        constant = ((query[:, None, :] * self.covariance[1:, 1:]).sum(axis=2) * query).sum(axis=1)
        linear = (query * self.covariance[0, 1:]).sum(axis=1)
        standard = self._standard(logits)
        variance = (
            self.covariance[0, 0] * standard**2 + 2 * linear[:, None] * standard + constant[:, None]
        )
        deviation: Doubles = np.sqrt(np.maximum(variance, 0.0))
        return deviation

    def confidence(self, features: Doubles) -> Doubles:
        """The probability of a match, uncut: φ [n, 6] -> [n] in [0, 1]."""
        return sigmoid(self.log_odds(features[:, :1], features[:, 1:])[:, 0])

    def band(self, features: Doubles) -> tuple[Doubles, Doubles]:
        """The 90 % band of the estimate: φ [n, 6] -> low [n], high [n].

        It is the calibration's own uncertainty, from having seen few labels, not the encoder's.
        """
        middle = self.log_odds(features[:, :1], features[:, 1:])[:, 0]
        half = BAND_Z * self.log_odds_deviation(features[:, :1], features[:, 1:])[:, 0]
        return sigmoid(middle - half), sigmoid(middle + half)

    def _standard(self, logits: Doubles) -> Doubles:
        standard: Doubles = (logits - self.center[0]) / self.scale[0]
        return standard


def fit_match(
    features: Doubles,
    labels: NDArray[np.bool_],
    *,
    propensity: Doubles | None = None,
    queries: NDArray[np.integer] | None = None,
    prior: MatchModel | None = None,
) -> MatchModel:
    """The match model of judged rows: φ [n, 6], labels [n], True for a match.

    propensity [n]: the probability with which each row was chosen to be judged, > 0.
    queries [n]: which query a row belongs to. prior: a model to be pulled towards, in whose centre
    and scale the fit is then made. Where a larger logit would lower the confidence, the fit is
    made on the logit alone, and where it still would, the confidence is the share of matches.
    Raises ValueError for no rows.
    """
    n = len(labels)
    if n == 0:
        raise ValueError("A match model needs at least one judged row.")
    weights = row_weights(np.ones(n) if propensity is None else propensity)
    if prior is None:
        center, deviation = features.mean(axis=0), features.std(axis=0)
        scale = np.where(deviation > 1e-9, deviation, 1.0)
    else:
        center, scale = prior.center, prior.scale
    standard = (features - center) / scale

    def model(columns: int, fit: LogisticFit) -> MatchModel:
        """The fit on the first columns as a model of all of them."""
        kept = [*range(columns), N_FEATURES]
        covariance = np.zeros((N_FEATURES + 1, N_FEATURES + 1))
        covariance[np.ix_(kept, kept)] = fit.covariance
        all_weights = np.concatenate([fit.weights, np.zeros(N_FEATURES - columns)])
        n_judged = n + (0 if prior is None else prior.n_judged)
        return MatchModel(center, scale, all_weights, fit.intercept, covariance, n_judged)

    if prior is not None or (labels.any() and not labels.all()):
        for columns in (N_FEATURES, 1):
            fit = fit_logistic(
                standard[:, :columns],
                labels,
                penalty=ridge_penalty(n),
                weights=weights,
                groups=queries,
                pull=None
                if prior is None
                else Pull(prior.weights[:columns], prior.intercept, INTERCEPT_PENALTY),
            )
            if fit.weights[0] > 0:
                return model(columns, fit)
    return model(0, _base_rate(labels, weights))


def ridge_penalty(n_rows: int) -> float:
    """λ of ½ λ ‖w‖² on standardised features."""
    return 1.0 if n_rows <= FEW_ROWS else 0.1


def row_weights(propensity: Doubles) -> Doubles:
    """1 / √propensity, cut at five times its mean and scaled to mean 1: [n] -> [n].

    The whole inverse would make a fit for ranks 1 to 200 alike, in which the results that people
    see count for a twentieth: their smECE was twice as high. No weights at all counted matches
    worse. The root stands between the two.
    """
    weights: Doubles = 1.0 / np.sqrt(propensity)
    # A cut lowers the mean, and with it the cut, so that one row among many cannot rule the fit.
    while (largest := LARGEST_WEIGHT * weights.mean()) < 0.999 * weights.max():
        weights = np.minimum(weights, largest)
    weights = weights / weights.mean()
    return weights


def _base_rate(labels: NDArray[np.bool_], weights: Doubles) -> LogisticFit:
    """The share of matches as a fit without features; half a row of each label keeps it inside."""
    n = len(labels)
    share = (float(weights @ labels) + 0.5) / (n + 1)
    variance = 1.0 / (n * share * (1 - share))
    return LogisticFit(np.zeros(0), float(np.log(share / (1 - share))), np.array([[variance]]))
