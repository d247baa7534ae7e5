"""How many lists a query must scan: found by trying, on the collection itself.

Queries are made from the collection and asked of every row by brute force; then as few lists are
scanned as give the recall@10 that was asked for, to each kind of query, with something to spare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prolip_search.indexes.blocks import Floats, Ints
from prolip_search.indexes.csd_index import augmented_queries
from prolip_search.indexes.ivf_index import AugmentedRows, IvfIndex
from prolip_search.indexes.rows import RowSource
from prolip_search.indexes.schema import KINDS

MEASURED_K = 10
N_QUERIES = 128  # of each kind
# Length of the noise that is added to a stored mean to make a query of it: none, as when asking
# what is similar to an item; a little; and so much that the query lies far from every item, as
# texts do.
NOISE = {"same": 0.0, "near": 0.3, "far": 1.0}
SPARE = 0.15  # of the misses allowed, kept for what a sample of queries does not show
MARGINS = (24, 96, 384)  # candidates beyond k, should rounding to 8 bits hide neighbours
WIDER = 1.12  # from one number of lists tried to the next
TIE = 3e-7  # scores nearer to each other than this are equal: as good an answer as any
SEED = 7


def tune(index: IvfIndex, rows: RowSource, dim: int, target: float) -> dict[str, Any] | None:
    """`n_probes`, `margin` and the recall measured with them for each kind of query.

    None when no setting reaches the target.
    """
    aim = 1 - (1 - target) * (1 - SPARE)
    families, allowed = _queries(rows, dim)
    asked = _Asked(AugmentedRows(rows, dim), families, allowed)
    for margin in MARGINS:

        def measure(n_probes: int, margin: int = margin) -> dict[str, float]:
            index.n_probes = n_probes
            return asked.recall(index, margin)

        found = first_to_reach(aim, _numbers_of_lists(index.n_lists), measure)
        if found is not None:
            n_probes, measured = found
            index.n_probes = n_probes
            return {"n_probes": n_probes, "margin": margin, "recall": measured}
    return None


def first_to_reach(
    aim: float, settings: Sequence[int], measure: Callable[[int], dict[str, float]]
) -> tuple[int, dict[str, float]] | None:
    """The first of ever costlier settings whose least recall is the aim or more, and its recall.

    Tries few of them, the cheap ones first, and takes it that recall grows along them: where it
    does not, the setting may be a later one, but what is given was measured. None: not even the
    last one does.
    """
    low, high = 0, 0
    while min((measured := measure(settings[high])).values()) < aim:
        if high == len(settings) - 1:
            return None
        low, high = high + 1, min(len(settings) - 1, 2 * high + 1)
    while low < high:
        middle = (low + high) // 2
        tried = measure(settings[middle])
        if min(tried.values()) < aim:
            low = middle + 1
        else:
            high, measured = middle, tried
    return settings[high], measured


def _numbers_of_lists(n_lists: int) -> list[int]:
    numbers = [1]
    while numbers[-1] < n_lists:
        numbers.append(min(n_lists, max(numbers[-1] + 1, int(numbers[-1] * WIDER))))
    return numbers


class _Asked:
    """Queries of each kind and the score that makes a row one of the k nearest to each."""

    def __init__(
        self,
        rows: AugmentedRows,
        families: dict[str, Floats],
        allowed: NDArray[np.bool_] | None,
    ) -> None:
        self._rows = rows
        self._allowed = allowed
        self._names = np.repeat(list(families), [len(some) for some in families.values()])
        self._queries = np.concatenate(list(families.values()))
        n_allowed = rows.n_rows if allowed is None else int(allowed.sum())
        self._k = min(MEASURED_K, n_allowed)
        self._worst = self._worst_of_best()

    def _worst_of_best(self) -> Floats:
        """The score of the k-th nearest row by brute force, [Q]."""
        best = np.full((len(self._queries), self._k), -np.inf, np.float32)
        start = 0
        for block in self._rows:
            scores = self._queries @ block.T
            if self._allowed is not None:
                scores[:, ~self._allowed[start : start + len(block)]] = -np.inf
            both = np.hstack([best, scores])
            best = -np.partition(-both, self._k - 1, axis=1)[:, : self._k]
            start += len(block)
        worst: Floats = best.min(1)
        return worst

    def recall(self, index: IvfIndex, margin: int) -> dict[str, float]:
        """The share of the k nearest among the candidates, for each kind of query."""
        _, found = index.search(self._queries, self._k + margin, self._allowed)
        shares = np.zeros(len(found))
        for at, candidates in enumerate(found):
            scores = self._rows.at(candidates[candidates >= 0]) @ self._queries[at]
            shares[at] = min(self._k, (scores >= self._worst[at] - TIE).sum()) / self._k
        return {
            str(name): round(float(shares[self._names == name].mean()), 4)
            for name in dict.fromkeys(self._names)
        }


def _queries(rows: RowSource, dim: int) -> tuple[dict[str, Floats], NDArray[np.bool_] | None]:
    """Augmented queries of each kind [Q, P], and which rows they are asked of (None: of all)."""
    rng = np.random.default_rng(SEED)
    images = np.flatnonzero(rows.kinds == KINDS.index("image"))
    texts = np.flatnonzero(rows.kinds == KINDS.index("text"))
    asked = images if len(images) else np.arange(len(rows))
    families = {}
    for name, length in NOISE.items():
        stored = rows.vectors("mean", _some(rng, asked)).astype(np.float64)
        noise = rng.standard_normal(stored.shape)
        noisy = stored + length * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        means = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
        families[name] = augmented_queries(means, with_uncertainty=True)
    if len(texts) >= N_QUERIES // 2 and len(images):
        means = rows.vectors("mean", _some(rng, texts))
        families["texts"] = augmented_queries(means, with_uncertainty=True)
    if len(asked) == len(rows):
        return families, None
    allowed = np.zeros(len(rows), np.bool_)
    allowed[asked] = True
    return families, allowed


def _some(rng: np.random.Generator, rows: Ints) -> Ints:
    return np.sort(rng.choice(rows, min(N_QUERIES, len(rows)), replace=False))
