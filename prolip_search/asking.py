"""Which results of which queries to ask somebody about, so that the answers say most.

Most of what is asked is from the first ten results, where people look, and some from far down,
where a confidence must be right as well. How likely each was to be asked is kept, and undone in the
fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import comb

import numpy as np
import pyarrow.compute as pc

from prolip_search.indexes.store import Store
from prolip_search.remembering import texts_asked

N_QUERIES = 60
PER_QUERY = 4
UNLIKELY_SHARE = 0.25
TOP, DEEP = 10, 200  # ranks 1–10, and 11–200
TOP_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class AskedRank:
    """A rank, from 1, and the probability with which it was chosen."""

    rank: int
    probability: float


def choose_ranks(n_results: int, rng: np.random.Generator, n: int = PER_QUERY) -> list[AskedRank]:
    """Up to n ranks of a list of n_results, ascending: 70 % of ranks 1–10, 30 % of 11–200.

    How many come from the first ten is drawn; which ones, evenly and each once. So each rank's
    probability is the expected number drawn from its stretch, shared out.
    """
    n_top, n_deep = min(TOP, n_results), max(0, min(DEEP, n_results) - TOP)
    n = min(n, n_top + n_deep)
    # All splits between the two stretches that there are enough results for.
    counts = np.clip(np.arange(n + 1), max(0, n - n_deep), n_top)
    chances = np.array([_binomial(n, k, TOP_SHARE if n_deep else 1.0) for k in range(n + 1)])
    expected = float(chances @ counts)
    from_top = int(counts[rng.choice(n + 1, p=chances / chances.sum())]) if n else 0
    chosen = [
        AskedRank(int(rank), expected / n_top)
        for rank in rng.choice(n_top, from_top, replace=False) + 1
    ] + [
        AskedRank(int(rank), (n - expected) / n_deep)
        for rank in (rng.choice(n_deep, n - from_top, replace=False) + TOP + 1 if n_deep else ())
    ]
    return sorted(chosen, key=lambda asked: asked.rank)


def choose_queries(
    sources: Sequence[Iterable[str]],
    unlikely: Sequence[str],
    rng: np.random.Generator,
    *,
    n: int = N_QUERIES,
    known: Iterable[str] = (),
) -> list[str]:
    """n queries in random order, a quarter of them of unlikely things, none twice.

    sources: the first that has any is used up before the next is looked at. known: queries that
    were judged already, left out.
    """
    seen = {query.casefold().strip() for query in known}
    likely: list[str] = []
    n_likely = n - round(UNLIKELY_SHARE * n)
    for source in sources:
        fresh = []
        for query in source:
            if query.strip() and query.casefold().strip() not in seen:
                seen.add(query.casefold().strip())
                fresh.append(query.strip())
        rng.shuffle(fresh)
        likely += fresh[: n_likely - len(likely)]
    others = [query for query in unlikely if query.casefold() not in seen]
    rng.shuffle(others)
    chosen = likely + others[: n - n_likely]
    rng.shuffle(chosen)
    return chosen


def queries_to_ask(store: Store, n: int) -> list[str]:
    """n queries that were not judged yet: asked before, of captions, everyday and unlikely ones."""
    judged = store.judgements()
    rows = zip(judged["query_text"].to_pylist(), judged["label"].to_pylist(), strict=True)
    texts = store.table(["kind", "text"])
    captions = texts.filter(pc.equal(texts["kind"], "text"))["text"].drop_null().to_pylist()
    known: list[str] = []
    for text, label in rows:
        if text is not None:
            (captions if label == "target" else known).append(text)
    sources = [texts_asked(store.history), sorted(set(captions)), everyday_queries()]
    rng = np.random.default_rng(len(judged))
    return choose_queries(sources, unlikely_queries(), rng, n=n, known=known)


def everyday_queries() -> list[str]:
    """What people look for in their photos."""
    return _listed("everyday.txt")


def unlikely_queries() -> list[str]:
    """What few collections of photos hold: so that "nothing matches" is seen as well."""
    return _listed("unlikely.txt")


def _listed(name: str) -> list[str]:
    text = (files("prolip_search") / "queries_to_ask" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _binomial(n: int, k: int, p: float) -> float:

    return comb(n, k) * p**k * (1 - p) ** (n - k)
