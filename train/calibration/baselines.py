"""What tells a right first result from a wrong one without any calibration.

The training-free measures of "Over the Top-1" (Gomez, UAI 2025, PMLR 286:1521–1532), written from
its abstract; where it needs a network's inputs or dropout, the same idea is taken to the Gaussians:

- top-1 cosine: that of the query's and the first result's means.
- top-1 consistency: the share of draws in which the same item comes first. The paper draws from the
  posterior predictive by Monte Carlo dropout or an ensemble; here queries and items are drawn from
  their own Gaussians.
- adversarial margin: how far the query must be moved until another item comes first. The paper
  searches for the smallest perturbation of the input; here it is that of the embedding, exactly,
  the distance to the nearest boundary: min_j q·(x₁ − x_j) / ‖x₁ − x_j‖.

All three rank by cosine, as the paper does, and are about the item that comes first by it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prolip_search.gaussians import Gaussians

Doubles = npt.NDArray[np.float64]

N_DRAWS = 64


def top_1_cosine(queries: Gaussians, items: Gaussians) -> tuple[npt.NDArray[np.int64], Doubles]:
    """The item that comes first by cosine and its cosine, both [Q]."""
    cosine = queries.mean.astype(np.float64) @ items.mean.T.astype(np.float64)
    first = cosine.argmax(axis=1)
    return first, cosine[np.arange(len(first)), first]


def top_1_consistency(
    queries: Gaussians, items: Gaussians, *, n_draws: int = N_DRAWS, seed: int = 0
) -> Doubles:
    """The share of draws in which the first item by cosine is that of the means: [Q], in [0, 1]."""
    first, _ = top_1_cosine(queries, items)
    rng = np.random.default_rng(seed)
    same = np.zeros(len(queries))
    for _ in range(n_draws):
        drawn_queries, drawn_items = (_draw(gaussians, rng) for gaussians in (queries, items))
        same += (drawn_queries @ drawn_items.T).argmax(axis=1) == first
    return same / n_draws


def adversarial_margin(queries: Gaussians, items: Gaussians) -> Doubles:
    """The distance of each query's mean from where another item would come first: [Q], >= 0.

    0 for all when there is one item only: nothing else can come first, and nothing can be said.
    """
    first, _ = top_1_cosine(queries, items)
    means = items.mean.astype(np.float64)
    margins = np.zeros(len(queries))
    if len(items) < 2:
        return margins
    for row, best in enumerate(first):
        away = means[best] - np.delete(means, best, axis=0)
        length = np.linalg.norm(away, axis=1)
        reach = away @ queries.mean[row].astype(np.float64)
        # Items of one and the same mean are told apart by nothing: no distance at all.
        margins[row] = np.min(reach / np.maximum(length, 1e-12))
    return np.maximum(margins, 0.0)


def _draw(gaussians: Gaussians, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    noise = rng.standard_normal(gaussians.mean.shape, dtype=np.float32)
    drawn = gaussians.mean + np.exp(0.5 * gaussians.log_variance) * noise
    unit: npt.NDArray[np.float32] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit
