"""The exact ranking: candidates of the index, measured again in float64 and proved complete.

Distances are those of MATH.md in float64 over the stored float32 means and uncertainties; equal
ones are ordered by id, so the result depends neither on the order of insertion nor on the index.
What an approximate index did not nominate is missing from it; what is there is measured and
ordered in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prolip_search.distances import Arrays, membership_rows
from prolip_search.errors import DimensionMismatch, QueryError
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.csd_index import (
    BLAS_FROM_QUERIES,
    FlatIndex,
    augmented_queries,
    best_rows,
)
from prolip_search.indexes.row_scan import best_of_rows, rounding_of_scan
from prolip_search.indexes.schema import KINDS
from prolip_search.indexes.view import IndexPart, View

RankBy = Literal["csd", "cosine", "membership"]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

# Candidates fetched beyond what is asked for, so that the proof nearly always succeeds at once.
MARGIN = FlatIndex.margin
# Where a filter lets through a smaller share, its rows are compared one by one: an index would have
# to be searched ever wider to meet enough of them.
SCAN_SHARE = 0.05
# In a batch, up to this share: FAISS takes no matrix products where a selector says which rows.
BATCH_SCAN_SHARE = 0.5
# How much wider an approximate index searches under a filter: to this power of 1 / its share.
FILTERED_WIDENING = 0.15
# Rows × dimensions measured at once by a membership scan: 8 MiB of float64.
SCAN_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Hits:
    """The K best items of each query. row_id [Q, K] int64, csd [Q, K] float32; best first.

    Where fewer than K items exist the rest is row id −1 at distance infinity.
    """

    row_id: Ints
    csd: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row_id)


def search_view(
    view: View,
    queries: Gaussians,
    k: int,
    *,
    dim: int,
    kinds: Sequence[str],
    rank_by: RankBy,
    offset: int,
    passing: NDArray[np.bool_] | None = None,
    nearest: Nearest | None = None,
) -> Hits:
    """Ranks the items of some kinds that are in the mask `passing` [N]; see Store.search.

    nearest: takes more candidates of each query than are ranked; what is ranked stays the same.
    """
    if k < 1 or offset < 0:
        raise QueryError(f"Ask for k >= 1 results from offset >= 0, not k={k}, offset={offset}.")
    if isinstance(kinds, str) or not kinds or not set(kinds) <= set(KINDS):
        raise QueryError(f"kinds is a tuple of some of {', '.join(KINDS)}, not {kinds!r}.")
    if rank_by not in get_args(RankBy):
        raise QueryError(f"rank_by is one of {', '.join(get_args(RankBy))}, not {rank_by!r}.")
    if queries.dim != dim:
        raise DimensionMismatch(dim, queries.dim)
    hits = Hits(
        row_id=np.full((len(queries), k), -1, np.int64),
        csd=np.full((len(queries), k), np.inf, np.float32),
    )
    ranking = _Ranking(view, queries, frozenset(kinds), rank_by, passing)
    n = min(offset + k, ranking.n_allowed)
    if nearest is not None and (rank_by != "csd" or n <= offset or not view.is_exact):
        _Ranking(view, queries, frozenset(kinds), "csd", passing).look_around(nearest)
        nearest = None
    if n > offset:
        best = ranking.by_membership(n) if rank_by == "membership" else ranking.by_index(n, nearest)
        for query, positions, csd in best:
            shown = positions[offset:n]
            hits.row_id[query, : len(shown)] = view.rows.row_ids(shown)
            hits.csd[query, : len(shown)] = (
                ranking.csd(query, shown) if csd is None else csd[offset:n]
            )
    return hits


class _Ranking:
    """Some queries against one view. Positions are those of the view."""

    def __init__(
        self,
        view: View,
        queries: Gaussians,
        kinds: frozenset[str],
        rank_by: RankBy,
        passing: NDArray[np.bool_] | None,
    ) -> None:
        self._view = view
        self._queries = queries
        self._means = queries.mean.astype(np.float64)  # [Q, D]
        self._uncertainty = queries.uncertainty.astype(np.float64)  # [Q]
        self._with_uncertainty = rank_by == "csd"
        self._allowed = view.allowed(kinds)
        if passing is not None:
            self._allowed = passing if self._allowed is None else passing & self._allowed
        self.n_allowed = (
            len(view.rows) if self._allowed is None else int(np.count_nonzero(self._allowed))
        )

    def csd(self, query: int, positions: Ints) -> Doubles:
        """CSD of one query to some items, [n]."""
        delta = self._view.rows.vectors("mean", positions) - self._means[query]  # in float64
        # sum(-1) over contiguous rows adds in an order that depends on their length alone, so equal
        # items get equal distances whatever stands around them; a matrix product promises no such
        # thing.
        squared: Doubles = (delta * delta).sum(-1)
        squared += self._uncertainty[query] + self._view.rows.uncertainty(positions)
        return squared

    def _negative_cosine(self, query: int, positions: Ints) -> Doubles:
        """Minus the inner product of the means, [n]: smaller is closer, as for a distance."""
        mean = self._view.rows.vectors("mean", positions).astype(np.float64)
        products: Doubles = (mean * self._means[query]).sum(-1)
        return -products

    def by_index(
        self, n: int, nearest: Nearest | None = None
    ) -> Iterator[tuple[int, Ints, Doubles | None]]:
        """Each query, its n best positions, and their CSD if that was measured.

        Fetched, measured, fetched again until proved. nearest: is given the first that is fetched,
        of which there is more then than is measured.
        """
        parts = self._view.parts
        augmented = augmented_queries(self._queries.mean, with_uncertainty=self._with_uncertainty)
        masks = [None if self._allowed is None else self._allowed[p.start : p.stop] for p in parts]
        sizes = [self.n_allowed]
        if len(parts) != 1:
            sizes = [
                part.index.n_rows if mask is None else int(np.count_nonzero(mask))
                for part, mask in zip(parts, masks, strict=True)
            ]
        scanned = None
        in_batch = len(self._queries) >= BLAS_FROM_QUERIES
        is_exact = all(part.index.rounding is not None for part in parts)
        share = BATCH_SCAN_SHARE if in_batch and is_exact else SCAN_SHARE
        if self._allowed is not None and self.n_allowed <= share * len(self._view.rows):
            scanned = np.flatnonzero(self._allowed)
        flat: list[FlatIndex] = []
        if self._allowed is None:
            flat = [part.index for part in parts if isinstance(part.index, FlatIndex)]
        measure = self.csd if self._with_uncertainty else self._negative_cosine
        pending = list(range(len(self._queries)))
        n_fetched = n + max([MARGIN, *(part.index.margin for part in parts)])
        # The fewer rows of a list a filter lets through, the more lists hold the nearest of them.
        widen = (len(self._view.rows) / max(1, self.n_allowed)) ** FILTERED_WIDENING
        while pending:
            n_found = n_fetched if nearest is None else max(n_fetched, nearest.n)
            if scanned is not None:
                candidates = [_Candidates.scan(self._view, scanned, augmented[pending], n_found)]
            elif nearest is not None and len(pending) == 1 and len(flat) == len(parts):
                of_all = [index.scores(augmented[0]) for index in flat]
                candidates = [
                    _Candidates.of_scores(part, some, n_found)
                    for part, some in zip(parts, of_all, strict=True)
                ]
                nearest.scores = of_all[0] if len(of_all) == 1 else np.concatenate(of_all)
            else:
                candidates = [
                    _Candidates.fetch(part, augmented[pending], n_found, mask, size, widen)
                    for part, mask, size in zip(parts, masks, sizes, strict=True)
                ]
            if nearest is not None:
                for query, own in enumerate(self._own()):
                    positions = np.concatenate([found.positions[query] for found in candidates])
                    scores = np.concatenate([found.scores[query] for found in candidates])
                    best = np.argsort(-scores, kind="stable")[: nearest.n]
                    nearest.positions.append(positions[best])
                    nearest.csd.append(own + 1.0 - 2.0 * scores[best])
                candidates = [found.cut(n_fetched) for found in candidates]
                nearest = None
            unproved = []
            for at, query in enumerate(pending):
                positions = candidates[0].positions[at]
                if len(candidates) > 1:
                    positions = np.concatenate([found.positions[at] for found in candidates])
                positions, keys = self._ordered(positions, measure(query, positions))
                if all(found.complete[at] for found in candidates) or (
                    len(keys) >= n and self._proved(query, keys[n - 1], candidates, at)
                ):
                    yield query, positions[:n], keys[:n] if self._with_uncertainty else None
                else:
                    unproved.append(query)
            pending = unproved
            n_fetched *= 4
            widen *= 4

    def look_around(self, nearest: Nearest) -> None:
        """Fills `nearest` by a search of its own, so that no other search is changed by it."""
        if self.n_allowed == 0:
            return
        if self._view.is_exact:
            for _ in self.by_index(1, nearest):
                pass
            return
        found: dict[int, tuple[Ints, Doubles | None]] = {}
        for query, positions, csd in self.by_index(min(nearest.n_approximate, self.n_allowed)):
            found[query] = positions, csd
        for query in range(len(self._queries)):
            positions, csd = found[query]
            nearest.positions.append(positions)
            nearest.csd.append(self.csd(query, positions) if csd is None else csd)

    def _own(self) -> Doubles:
        """‖μ_q‖² + u_q, [Q]: what a query adds to every distance."""
        lengths: Doubles = np.einsum("qd,qd->q", self._means, self._means)
        return lengths + self._uncertainty

    def _proved(
        self, query: int, worst_key: float, candidates: Sequence[_Candidates], at: int
    ) -> bool:
        """Whether no item that was not fetched can be as near as the n-th best that was.

        Its score is at most the lowest that was fetched, plus what float32 may have lost of it.
        Of an approximate index no such thing can be said, and nothing is asked.
        """
        if self._with_uncertainty:  # from the distance back to the inner product it stands for
            q = self._means[query]
            score = float(q @ q + 1 + self._uncertainty[query] - worst_key) / 2
            # Were it as near, |last coordinate| <= |score| + 1, whatever the collection's largest.
            magnitude = 2.02 + abs(score)
        else:
            score, magnitude = -float(worst_key), 1.01
        return all(
            found.complete[at]
            or found.rounding is None
            or found.lowest[at] + found.rounding * magnitude < score
            for found in candidates
        )

    def by_membership(self, n: int) -> Iterator[tuple[int, Ints, None]]:
        """Each query and its n best positions by M(item | query), from a scan of all rows."""
        everything = np.arange(len(self._view.rows))
        positions = everything if self._allowed is None else everything[self._allowed]
        step = max(1, SCAN_ELEMENTS // self._queries.dim)
        rows = self._view.rows
        for query in range(len(self._queries)):
            one = self._queries[query]
            wide = Arrays(one.mean.astype(np.float64), one.log_variance.astype(np.float64))
            keys = np.empty(len(positions))
            for at in range(0, len(positions), step):
                block = positions[at : at + step]
                items = Arrays(
                    rows.vectors("mean", block).astype(np.float64),
                    rows.vectors("log_variance", block).astype(np.float64),
                )
                keys[at : at + step] = -membership_rows(items, wide)
            best = np.flatnonzero(keys <= np.partition(keys, n - 1)[n - 1])
            yield query, self._ordered(positions[best], keys[best])[0][:n], None

    def _ordered(self, positions: Ints, keys: Doubles) -> tuple[Ints, Doubles]:
        """Positions in ascending order of key, equal keys in ascending order of id."""
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        if (ordered[1:] == ordered[:-1]).any():
            ids = self._view.rows.take(positions, ["id"])["id"].to_pylist()
            order = np.array(sorted(range(len(keys)), key=lambda at: (keys[at], ids[at])))
        return positions[order], keys[order]


class Nearest:
    """Takes the n nearest items of each query, of which the search had to look at more anyway.

    positions [Q] of arrays, csd [Q] of arrays, ascending, good to float32's rounding. An
    approximate index is asked for `n_approximate` of them: it would miss too many of the others.
    scores [N]: of a single query, if the search computed those of all positions.
    """

    def __init__(self, n: int, n_approximate: int) -> None:
        self.n = n
        self.n_approximate = n_approximate
        self.positions: list[Ints] = []
        self.csd: list[Doubles] = []
        self.scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class _Candidates:
    """What one part of the index found for some queries, best first."""

    positions: list[Ints]  # per query
    scores: list[NDArray[np.float32]]  # per query
    lowest: NDArray[np.float32]  # [Q], the lowest score among them
    complete: NDArray[np.bool_]  # [Q], whether they are all there are
    rounding: float | None  # None: of an approximate index

    def cut(self, n: int) -> _Candidates:
        """As if no more than n had been asked for."""
        if all(len(found) <= n for found in self.positions):
            return self
        positions = [found[:n] for found in self.positions]
        scores = [found[:n] for found in self.scores]
        whole = [len(cut) == len(all_) for cut, all_ in zip(scores, self.scores, strict=True)]
        lowest = np.array([cut[-1] if len(cut) else 0.0 for cut in scores], np.float32)
        return _Candidates(
            positions,
            scores,
            np.where(whole, self.lowest, lowest),
            self.complete & np.array(whole),
            self.rounding,
        )

    @classmethod
    def fetch(
        cls,
        part: IndexPart,
        queries: NDArray[np.float32],
        n_fetched: int,
        mask: NDArray[np.bool_] | None,
        size: int,
        widen: float,
    ) -> _Candidates:
        k = min(n_fetched, size)
        scores, rows = part.index.search(queries, k, mask, widen=widen)  # [Q, k]
        lowest = scores[:, -1] if k else np.empty(len(queries), np.float32)
        complete = (rows >= 0).sum(1) >= size
        there = [found >= 0 for found in rows]
        positions = [found[kept] + part.start for found, kept in zip(rows, there, strict=True)]
        by_query = [found[kept] for found, kept in zip(scores, there, strict=True)]
        return cls(positions, by_query, lowest, complete, part.index.rounding)

    @classmethod
    def of_scores(cls, part: IndexPart, scores: NDArray[np.float32], n_fetched: int) -> _Candidates:
        """The same for one query, from its scores of all rows of the part, [n_rows]."""
        rows = best_rows(scores, min(n_fetched, len(scores)))
        best = scores[rows]
        complete = np.array([len(rows) == len(scores)])
        return cls([rows + part.start], [best], best[-1:], complete, part.index.rounding)

    @classmethod
    def scan(cls, view: View, positions: Ints, queries: NDArray[np.float32], k: int) -> _Candidates:
        """The same without an index, from the rows at some positions."""
        k = min(k, len(positions))
        scores, found = best_of_rows(view.rows, positions, queries, k)
        complete = np.full(len(queries), k == len(positions))
        rounding = rounding_of_scan(queries.shape[1])
        return cls(list(found), list(scores), scores[:, -1], complete, rounding)
