"""The best of some rows, found without an index: what a filter that lets few through needs."""

from __future__ import annotations

import numpy as np

from prolip_search.indexes.blocks import Floats, Ints
from prolip_search.indexes.csd_index import rounding_of
from prolip_search.indexes.rows import Rows

BLOCK_ELEMENTS = 1 << 20  # rows × width that are read at once: 4 MiB
SCORE_ELEMENTS = 1 << 24  # queries × rows whose scores are held at once: 64 MiB


def rounding_of_scan(width: int) -> float:
    """The ε of `CsdIndex.rounding` for the scores of `best_of_rows`: two sums for one."""
    return 2 * rounding_of(width)


def best_of_rows(rows: Rows, positions: Ints, queries: Floats, k: int) -> tuple[Floats, Ints]:
    """The k <= n best of the rows at `positions` [n] for augmented queries [Q, P], best first.

    Scores, as of `CsdIndex.search`, and positions, both [Q, k].
    """
    scores = np.empty((len(queries), k), np.float32)
    found = np.empty((len(queries), k), np.int64)
    step = max(1, SCORE_ELEMENTS // max(1, len(positions)))
    for at in range(0, len(queries), step):
        some = slice(at, at + step)
        scores[some], found[some] = _best(rows, positions, queries[some], k)
    return scores, found


def _best(rows: Rows, positions: Ints, queries: Floats, k: int) -> tuple[Floats, Ints]:
    dim = rows.schema.field("mean").type.list_size
    all_scores = np.empty((len(queries), len(positions)), np.float32)
    step = max(1, BLOCK_ELEMENTS // queries.shape[1])
    for at in range(0, len(positions), step):
        block = positions[at : at + step]
        mean = rows.vectors("mean", block)  # [b, D]
        # The last coordinate of `augmented_rows`, in float32: rounding_of_scan allows for it.
        last = -0.5 * (rows.uncertainty(block) + (np.einsum("nd,nd->n", mean, mean) - 1.0))
        scores = np.matmul(queries[:, :dim], mean.T, out=all_scores[:, at : at + step])
        scores += queries[:, dim : dim + 1] * last
    best = np.argpartition(-all_scores, k - 1, axis=1)[:, :k]  # [Q, k]
    scores = np.take_along_axis(all_scores, best, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    return scores, positions[np.take_along_axis(best, order, axis=1)]
