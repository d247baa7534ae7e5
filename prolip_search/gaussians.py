"""Gaussians: what every image and every text becomes.

A Gaussian here is diagonal, `N(mean, diag exp(log_variance))`, and its mean has unit length.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prolip_search.errors import DimensionMismatch, InvalidGaussians

# float32 rounding of a normalised vector leaves about 1e-7; float16 storage about 1e-3.
UNIT_TOLERANCE = 2e-3
# exp(60) and exp(-60) are far inside float32; nothing trained comes near either.
LOG_VARIANCE_LIMIT = 60.0


@dataclass(frozen=True, eq=False)
class Gaussians:
    """N diagonal Gaussians, checked once when built and immutable from then on.

    mean [N, D]: float32, rows of unit length.
    log_variance [N, D]: float32, log σ² (not σ, not log σ), within ±60.
    Raises InvalidGaussians.
    """

    mean: NDArray[np.float32]
    log_variance: NDArray[np.float32]

    def __post_init__(self) -> None:
        mean = _own_float32(self.mean, "mean")
        log_variance = _own_float32(self.log_variance, "log_variance")
        if mean.shape != log_variance.shape:
            raise InvalidGaussians(
                f"mean {mean.shape} and log_variance {log_variance.shape} differ in shape; "
                "give one log-variance for every coordinate of the mean."
            )
        norms = np.linalg.norm(mean, axis=1)
        if norms.size and float(np.abs(norms - 1).max()) > UNIT_TOLERANCE:
            worst = float(norms[np.abs(norms - 1).argmax()])
            raise InvalidGaussians(
                f"Means must have unit length, but one has length {worst:.4g}; "
                "build them with Gaussians.from_raw(mean, log_variance)."
            )
        if log_variance.size and float(np.abs(log_variance).max()) > LOG_VARIANCE_LIMIT:
            raise InvalidGaussians(
                f"Log-variances must lie within ±{LOG_VARIANCE_LIMIT:g}; "
                f"found {float(log_variance.min()):.4g} to {float(log_variance.max()):.4g}."
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "log_variance", log_variance)

    @classmethod
    def from_raw(cls, mean: ArrayLike, log_variance: ArrayLike) -> Gaussians:
        """Gaussians from means [N, D] of any length but zero; the log-variances stay as they are.

        The models normalise the mean and never rescale the variance with it.
        """
        raw = np.atleast_2d(np.asarray(mean, dtype=np.float64))
        norms = np.linalg.norm(raw, axis=1, keepdims=True)
        if raw.size and (not np.isfinite(norms).all() or float(norms.min()) == 0.0):
            raise InvalidGaussians("A raw mean is zero or not finite, so it has no direction.")
        return cls(
            (raw / norms).astype(np.float32), np.atleast_2d(np.asarray(log_variance, np.float32))
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Gaussians]) -> Gaussians:
        """All rows of all parts, in order. Raises DimensionMismatch; InvalidGaussians if empty."""
        parts = list(parts)
        if not parts:
            raise InvalidGaussians("Nothing to concatenate: give at least one part.")
        for part in parts:
            if part.dim != parts[0].dim:
                raise DimensionMismatch(parts[0].dim, part.dim)
        return cls(
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.log_variance for part in parts]),
        )

    @property
    def dim(self) -> int:
        """D, the number of coordinates."""
        return int(self.mean.shape[1])

    @property
    def uncertainty(self) -> NDArray[np.float32]:
        """[N], the trace of the covariance, u = Σ_d σ_d²: > 0, larger is more uncertain."""
        return np.exp(self.log_variance).sum(axis=1)  # type: ignore[no-any-return]  # NumPy's stubs

    def __len__(self) -> int:
        return int(self.mean.shape[0])

    def __getitem__(self, rows: int | slice | NDArray[np.integer]) -> Gaussians:
        """The chosen rows; a single number keeps N = 1, so that the result is again Gaussians."""
        if isinstance(rows, int | np.integer):
            rows = np.array([rows])
        return Gaussians(self.mean[rows], self.log_variance[rows])

    def __repr__(self) -> str:
        return f"Gaussians(N={len(self)}, D={self.dim})"


def _own_float32(values: ArrayLike, name: str) -> NDArray[np.float32]:
    """A read-only float32 [N, D] that nobody else can write to."""
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2:
        raise InvalidGaussians(f"{name} must have shape [N, D], not {array.shape}.")
    if not np.isfinite(array).all():
        raise InvalidGaussians(f"{name} holds NaN or infinity; the encoder's output is broken.")
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array
