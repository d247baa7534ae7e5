"""A collection of coloured pictures, and somebody who knows what is in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prolip_search.engine import SearchEngine
from prolip_search.judging import Judgement, Label
from prolip_search.testing import COLOURS

NAMES = sorted(set(COLOURS) - {"gray"})
RANKS = (1, 2, 5, 9, 20, 40)
WORDS = ("a", "the", "some", "my")


def pixels_of(colour: str, seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, 25, (8, 8, 3))
    return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)


def add_pictures(engine: SearchEngine, n: int = 120, *, first: int = 0) -> list[str]:
    """Noisy pictures of all colours in turn; their ids, "<colour> <number>"."""
    colours = [NAMES[at % len(NAMES)] for at in range(first, first + n)]
    ids = [f"{colour} {at}" for at, colour in enumerate(colours, start=first)]
    pictures = [Image.fromarray(pixels_of(c, at)) for at, c in enumerate(colours, start=first)]
    engine.add(pictures, ids=ids)
    engine.store.refresh_index()
    return ids


def judgements(engine: SearchEngine, *, n_queries: int = 52) -> list[Judgement]:
    """What an honest person says of some results of "a red thing" and the like."""
    said = []
    for word in WORDS:
        for colour in NAMES:
            query = f"{word} {colour} thing"
            answer = engine.search(query, max(RANKS))
            for rank in RANKS:
                item = answer[rank - 1].id
                label: Label = "match" if item.split()[0] == colour else "no_match"
                chance = 0.4 if rank <= 10 else 0.02
                said.append(
                    Judgement(query=query, item=item, label=label, rank=rank, probability=chance)
                )
    return said[: n_queries * len(RANKS)]


def judge_absent(engine: SearchEngine, n: int = 15) -> None:
    """Somebody says of n queries that no result fits, and that nothing in the collection does."""
    said = []
    for query in [f"unheard of {at}" for at in range(n)]:
        answer = engine.search(query, 40)
        for rank in (1, 2, 5, 30):
            item, chance = answer[rank - 1].id, 0.4 if rank <= 10 else 0.02
            said.append(
                Judgement(query=query, item=item, label="no_match", rank=rank, probability=chance)
            )
        said.append(Judgement(query=query, item=None, label="none"))
    engine.record(said)
