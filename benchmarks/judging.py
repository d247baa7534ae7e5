"""Collections, searches and judges in the worlds of `benchmarks.worlds`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.worlds import (
    ABSENT,
    HOME,
    OTHER,
    Encoder,
    Generator,
    Sets,
    World,
    captions,
    matches,
)
from prolip_search.asking import DEEP, choose_ranks
from prolip_search.confidence.background import REFERENCE_SIZE
from prolip_search.confidence.evidence import N_CANDIDATES, QueryEvidence
from prolip_search.confidence.fitting import Labels, Targets
from prolip_search.gaussians import Gaussians

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

Place = Literal[
    "a tenth of the items",
    "four times the items",
    "four near-copies of every image",
    "a collection of other topics",
]

N_ITEMS, N_TEST, N_POOL = 4000, 1500, 3000
BLOCK = 256  # queries that are compared with all items at once


@dataclass(frozen=True, eq=False)
class Seen:
    """Q queries searched in one collection, with the truth beside what a search knows.

    logits, is_match [Q, 200]: of the best results, best first. n_matches [Q] in all.
    target_logits [Q]: of the item each caption was written for, NaN where it was for none here.
    target_rank [Q]: its rank, from 1; 0 for none.
    """

    evidence: QueryEvidence
    logits: Doubles
    is_match: NDArray[np.bool_]
    n_matches: Ints
    target_logits: Doubles
    target_rank: Ints

    def __len__(self) -> int:
        return len(self.n_matches)

    def __getitem__(self, rows: Ints) -> Seen:
        return Seen(
            self.evidence[rows],
            self.logits[rows],
            self.is_match[rows],
            self.n_matches[rows],
            self.target_logits[rows],
            self.target_rank[rows],
        )


def search(
    encoder: Encoder,
    items: Gaussians,
    item_sets: Sets,
    query_sets: Sets,
    targets: Ints | None = None,
) -> Seen:
    """Every caption against every item. targets [Q]: the item it was written for."""
    queries = encoder.encode_captions(query_sets)
    n_items = len(items)
    blocks = []
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        logits = encoder.logits(queries[rows], items)  # [q, N]
        is_match = matches(query_sets[rows], item_sets)
        order = np.argsort(-logits, axis=1, kind="stable")
        best = np.take_along_axis(logits, order, axis=1)[:, :N_CANDIDATES]
        reference = logits[:, :REFERENCE_SIZE]  # items are drawn alike: the first are a sample
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(n_items)[None], axis=1)
        here = np.arange(len(logits))
        target = np.zeros(len(logits), np.int64) if targets is None else targets[rows]
        blocks.append(
            (
                best,
                reference,
                rank[:, :REFERENCE_SIZE] >= N_CANDIDATES,
                np.take_along_axis(is_match, order[:, :DEEP], axis=1),
                is_match.sum(axis=1),
                logits[here, target],
                rank[here, target] + 1,
            )
        )
    best, reference, beyond, is_match, n_matches, target_logits, target_rank = (
        np.concatenate(parts) for parts in zip(*blocks, strict=True)
    )
    if targets is None:
        target_logits, target_rank = np.full(len(queries), np.nan), np.zeros_like(target_rank)
    evidence = QueryEvidence(
        logits=best,
        reference=reference,
        beyond=beyond,
        uncertainty=queries.uncertainty.astype(np.float64),
        n_items=n_items,
    )
    return Seen(evidence, best[:, :DEEP], is_match, n_matches, target_logits, target_rank)


@dataclass(frozen=True, eq=False)
class Collections:
    """One world's encoder, its collection, and what is asked of it.

    pool: queries to calibrate on; test: others to be tested on; targets: captions of the
    collection's own images. A fifth of the queries of pool and test are about absent topics.
    """

    world: World
    generator: Generator
    encoder: Encoder
    sets: Sets
    pixels: NDArray[np.float32]
    test_sets: Sets
    pool: Seen
    test: Seen
    targets: Seen

    @classmethod
    def of(cls, world: World, generator: Generator, encoder: Encoder) -> Collections:
        rng = world.rng("home")
        sets = generator.images(N_ITEMS, rng, HOME)
        pixels = generator.pixels(sets, rng)
        items = encoder.encode_images(pixels)
        test_sets = _asked_for(generator, N_TEST, HOME, world.rng("test queries"))
        pool_sets = _asked_for(generator, N_POOL, HOME, world.rng("pool queries"))
        written = captions(sets, world.rng("captions"))
        return cls(
            world,
            generator,
            encoder,
            sets,
            pixels,
            test_sets,
            pool=search(encoder, items, sets, pool_sets),
            test=search(encoder, items, sets, test_sets),
            targets=search(encoder, items, sets, written, np.arange(N_ITEMS)),
        )

    def elsewhere(self, place: Place) -> Seen:
        """Test queries in another collection, in a random order of its items."""
        rng, draw = self.world.rng(place), self.generator
        sets, pixels, queries = self.sets, self.pixels, self.test_sets
        if place == "a tenth of the items":
            sets, pixels = sets[: N_ITEMS // 10], pixels[: N_ITEMS // 10]
        elif place == "four times the items":
            more = draw.images(3 * N_ITEMS, rng, HOME)
            sets = np.concatenate([sets, more])
            pixels = np.concatenate([pixels, draw.pixels(more, rng)])
        elif place == "four near-copies of every image":
            copies = [pixels + _grain(pixels, rng) for _ in range(4)]
            sets, pixels = np.tile(sets, (5, 1)), np.concatenate([pixels, *copies])
        else:
            sets = draw.images(N_ITEMS, rng, OTHER)
            pixels = draw.pixels(sets, rng)
            queries = _asked_for(draw, N_TEST, OTHER, rng)
        order = rng.permutation(len(sets))
        items = self.encoder.encode_images(pixels[order])
        return search(self.encoder, items, sets[order], queries)


def _asked_for(
    generator: Generator, n: int, topics: tuple[int, ...], rng: np.random.Generator
) -> Sets:
    """n captions of new images; a fifth of them of topics that no collection has."""
    n_absent = n // 5
    present = captions(generator.images(n - n_absent, rng, topics), rng)
    absent = captions(generator.images(n_absent, rng, ABSENT), rng)
    return rng.permutation(np.concatenate([present, absent]))


def _grain(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """What tells a near-copy from its image: a twentieth of the noise of a new photo."""
    strength = 0.05 * float(pixels.std())
    grain: NDArray[np.float32] = rng.normal(0, strength, pixels.shape).astype(np.float32)
    return grain


def asked(
    seen: Seen, rng: np.random.Generator, per_query: int, *, in_rounds: bool = True
) -> tuple[Ints, Ints, Doubles]:
    """What is asked, in its order: query [n], rank [n] from 1, and how likely it was to be asked.

    In rounds: one result of every query before the second of any; else query by query.
    """
    n_results = seen.logits.shape[1]
    query, ask = np.divmod(np.arange(len(seen) * per_query), per_query)
    chosen = []
    for _ in range(len(seen)):
        of_query = choose_ranks(n_results, rng, per_query)
        chosen += [of_query[i] for i in rng.permutation(per_query)]
    rank = np.array([one.rank for one in chosen])
    chance = np.array([one.probability for one in chosen])
    order = np.lexsort((query, ask)) if in_rounds else np.arange(query.size)
    return query[order], rank[order], chance[order]


def judged(
    seen: Seen, rng: np.random.Generator, n_judged: int, *, in_rounds: bool = True
) -> Labels:
    """What a judge says who knows the truth, and says "none" of queries that nothing matches.

    Four results of each query at the most, until n_judged answers are there.
    """
    query, rank, propensity = asked(seen, rng, 4, in_rounds=in_rounds)
    query, rank, propensity = query[:n_judged], rank[:n_judged], propensity[:n_judged]
    return Labels(
        evidence=seen.evidence,
        keys=[f"judged {q}" for q in range(len(seen))],
        nothing=seen.n_matches == 0,
        query=query,
        logits=seen.logits[query, rank - 1],
        is_match=seen.is_match[query, rank - 1],
        propensity=propensity,
        rank=rank,
        is_thumb=np.zeros(len(query), dtype=bool),
    )


def pairs(seen: Seen) -> Targets:
    """Each query with the item it was written for."""
    keys = [f"pair {q}" for q in range(len(seen))]
    return Targets(evidence=seen.evidence, keys=keys, logits=seen.target_logits)
