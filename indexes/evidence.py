"""What a collection says of some queries, beyond the results: the material of every confidence.

Of each query: how near its thousand best items are, and how near a sample of all contents is. The
first comes along with the search, which looks at every row anyway; the second is one product with
2,048 rows. Photos with the same bytes are one content, which counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prolip_search.gaussians import Gaussians
from prolip_search.indexes.blocks import Floats, Ints
from prolip_search.indexes.ranking import Nearest
from prolip_search.indexes.reference import Keys, keys_of, n_distinct, smallest
from prolip_search.indexes.view import View

N_NEAREST = 1000
N_NEAREST_APPROXIMATE = 100  # an approximate index misses some of the thousand
SAMPLES_KEPT = 16  # of one view: 6 MB each at D = 768

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """The reference sample of some of the items. n_items: N, how many contents they are.

    positions [R], keys [R], means [R, D] and uncertainty [R], in ascending order of key.
    """

    positions: Ints
    keys: Keys
    means: Floats
    uncertainty: Floats
    n_items: int
    has_copies: bool

    @cached_property
    def own(self) -> Floats:
        """‖μ‖² + u, [R]: what a member adds to every distance."""
        own: Floats = np.einsum("rd,rd->r", self.means, self.means) + self.uncertainty
        return own


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of Q queries, among N contents. Distances are CSD, good to float32's rounding.

    nearest [Q, n]: to the nearest items, ascending; positions [Q, n]: which those are; repeats
    [Q, n]: whether a nearer one has the same content, None where there are no copies. reference
    [Q, R]: to the sample; sampled [Q, R]: which items those are; beyond [Q, R]: whether their
    content is not among the nearest.
    """

    nearest: Doubles
    positions: Ints
    repeats: Mask | None
    reference: Doubles
    sampled: Ints
    beyond: Mask
    n_items: int

    @classmethod
    def concatenate(cls, parts: Sequence[Evidence]) -> Evidence:
        """The queries of several, one after the other, about the same collection."""
        n = min(part.nearest.shape[1] for part in parts)
        repeats = [part.repeats for part in parts if part.repeats is not None]
        return cls(
            nearest=np.concatenate([part.nearest[:, :n] for part in parts]),
            positions=np.concatenate([part.positions[:, :n] for part in parts]),
            repeats=np.concatenate([some[:, :n] for some in repeats]) if repeats else None,
            reference=np.concatenate([part.reference for part in parts]),
            sampled=np.concatenate([part.sampled for part in parts]),
            beyond=np.concatenate([part.beyond for part in parts]),
            n_items=parts[0].n_items,
        )


def wanted() -> Nearest:
    """What a search has to bring along."""
    # One more, because one may be the query itself.
    return Nearest(N_NEAREST + 1, N_NEAREST_APPROXIMATE + 1)


def sample_of(view: View, kinds: frozenset[str], passing: Mask | None, name: object) -> Sample:
    """The sample of the items of some kinds that are in a mask; kept under a name for next time."""
    known = view.samples.get((kinds, name))
    if not isinstance(known, Sample):
        known = _sample(view, kinds, passing)
        if len(view.samples) >= SAMPLES_KEPT:
            view.samples.pop(next(iter(view.samples)))
        view.samples[kinds, name] = known
    return known


def gather(
    view: View,
    queries: Gaussians,
    nearest: Nearest,
    sample: Sample,
    itself: Ints | None = None,
    whole: Sample | None = None,
) -> Evidence | None:
    """Puts together what a search brought along and the sample; None where nothing is left.

    whole: the sample of the collection that a filter narrows. It stands in for one of a few items,
    all of which are among the nearest: sums over them need no sample, and how a query looks at a
    collection cannot be seen from a handful.

    itself [Q]: the queries are items, at these positions, and are no answers to themselves; −1 for
    one that is no item, of which the last of the sample is left out instead.
    """
    n_kept = N_NEAREST if view.is_exact else N_NEAREST_APPROXIMATE
    n_items, has_copies = sample.n_items, sample.has_copies
    is_small = whole is not None and max(map(len, nearest.positions)) <= n_kept
    if is_small and whole is not None:
        sample, has_copies = whole, sample.has_copies or whole.has_copies
    own = np.einsum("qd,qd->q", queries.mean, queries.mean, dtype=np.float64)
    own += queries.uncertainty  # [Q]
    if nearest.scores is not None:
        reference = nearest.scores[sample.positions].astype(np.float64)[None]  # [1, R]
        reference *= -2.0
        reference += own + 1.0
    else:
        reference = (queries.mean @ sample.means.T).astype(np.float64)  # [Q, R]
        reference *= -2.0
        reference += own[:, None] + sample.own
    # What tells contents apart: their keys, or where all differ the positions themselves.
    keys = all_keys(view) if has_copies else None
    sampled = np.broadcast_to(sample.positions, reference.shape)
    found, distances = list(nearest.positions), list(nearest.csd)
    if itself is not None:
        n_items -= 1
        reference, sampled = _without_itself(reference, sample, keys, itself)
        for at in np.flatnonzero(itself >= 0):
            one = itself[at]
            other = found[at] != one if keys is None else keys[found[at]] != keys[one]
            found[at], distances[at] = found[at][other], distances[at][other]
    n = min([n_kept, *map(len, found)])
    if n == 0 or reference.shape[1] == 0:
        return None
    positions = np.stack([some[:n] for some in found])
    beyond, repeats = _apart(len(view.rows), positions, sampled, keys)
    if is_small:
        beyond[:] = False
    return Evidence(
        nearest=np.maximum(np.stack([some[:n] for some in distances]), 0.0),
        positions=positions,
        repeats=repeats,
        reference=np.maximum(reference, 0.0),
        sampled=sampled,
        beyond=beyond,
        n_items=n_items,
    )


def all_keys(view: View) -> Keys:
    """The content keys of all rows, [N]."""
    known = view.samples.get("keys")
    if not isinstance(known, np.ndarray):
        parts = [np.empty(0, np.uint64)]
        for start, source in zip(view.rows.starts, view.rows.sources, strict=False):
            file = view.references.get(int(start))
            if file is not None:
                parts.append(file.keys)
            else:
                rows = source.take(np.arange(len(source)), ["id", "content_hash"])
                parts.append(keys_of(rows))
        known = view.samples["keys"] = np.concatenate(parts)
    return known


def _sample(view: View, kinds: frozenset[str], passing: Mask | None) -> Sample:
    allowed = view.allowed(kinds)
    if passing is not None:
        allowed = passing if allowed is None else passing & allowed
    files = list(view.references.items())
    if allowed is None and len(files) == 1 and len(view.rows.sources) == 1:
        file = files[0][1]  # the sample as it lies there
        return Sample(*file.sample(), file.n_images, file.n_images < len(view.rows))
    keys = all_keys(view)
    positions = np.arange(len(keys)) if allowed is None else np.flatnonzero(allowed)
    chosen = smallest(keys[positions], positions)
    means = np.empty((len(chosen), view.rows.schema.field("mean").type.list_size), np.float32)
    uncertainty = np.empty(len(chosen), np.float32)
    missing = np.ones(len(chosen), np.bool_)
    for start, file in files:  # one piece of 6 MB is cheaper than rows from all over
        rows, _, ready, own = file.sample()
        if len(rows) == 0:
            continue
        order = np.argsort(rows)
        places = order[
            np.minimum(np.searchsorted(rows, chosen - start, sorter=order), len(rows) - 1)
        ]
        here = rows[places] == chosen - start
        means[here], uncertainty[here] = ready[places[here]], own[places[here]]
        missing &= ~here
    at = chosen[missing]
    means[missing], uncertainty[missing] = view.rows.vectors("mean", at), view.rows.uncertainty(at)
    n_items = n_distinct(keys[positions])
    return Sample(chosen, keys[chosen], means, uncertainty, n_items, n_items < len(positions))


def _without_itself(
    reference: Doubles, sample: Sample, keys: Keys | None, itself: Ints
) -> tuple[Doubles, Ints]:
    """[Q, R − 1] each: what is left of the sample without the query, or without its last member."""
    n_queries, n_sample = reference.shape
    same = sample.positions == itself[:, None]
    if keys is not None:
        same |= (sample.keys == keys[itself][:, None]) & (itself >= 0)[:, None]
    same[~same.any(axis=1), n_sample - 1] = True
    kept = np.broadcast_to(sample.positions, reference.shape)[~same]
    shape = (n_queries, n_sample - 1)
    return reference[~same].reshape(shape), kept.reshape(shape)


def _apart(
    n_rows: int, positions: Ints, sampled: Ints, keys: Keys | None
) -> tuple[Mask, Mask | None]:
    """Which of the sample are not among the nearest, [Q, R], and which of these repeat, [Q, n]."""
    beyond = np.empty(sampled.shape, np.bool_)
    if keys is None:
        near = np.zeros(n_rows, np.bool_)
        for at, some in enumerate(positions):
            near[some] = True
            beyond[at] = ~near[sampled[at]]
            near[some] = False
        return beyond, None
    repeats = np.ones(positions.shape, np.bool_)
    for at, some in enumerate(positions):
        contents, first = np.unique(keys[some], return_index=True)
        repeats[at, first] = False
        beyond[at] = ~np.isin(keys[sampled[at]], contents)
    return beyond, repeats
