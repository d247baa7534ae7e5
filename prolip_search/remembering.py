"""What was asked last, so that it can be judged, and before, so that it can be asked about."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prolip_search.errors import QueryError
from prolip_search.indexes.history import History
from prolip_search.queries import QueryLike, StoredItem
from prolip_search.results import SearchResults


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """An answer as the history has it. first: the rank of its first result."""

    query: QueryLike
    ids: Sequence[str]
    first: int

    def id_of(self, rank: int) -> str:
        """The item that stood at a rank. Raises QueryError for another rank."""
        if not self.first <= rank < self.first + len(self.ids):
            raise QueryError(
                f"The last answer had results {self.first} to {self.first + len(self.ids) - 1}; "
                f"there is no {rank} among them."
            )
        return self.ids[rank - self.first]


def remember(history: History, answer: SearchResults, n_items: int) -> bool:
    """Adds an answer to the history; False where that cannot be written. Gaussians are not kept."""
    query = answer.query
    if query.kind == "gaussians" or (query.kind == "image" and not query.text):
        return False
    # Where a least confidence left out results in between, what comes after has no place here.
    shown = [r.id for at, r in enumerate(answer) if r.rank == answer.offset + at + 1]
    return history.record(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": query.kind,
            "query": os.path.realpath(query.text) if query.kind == "image" else query.text,
            "offset": answer.offset,
            "rank_by": answer.rank_by,
            "n_items": n_items,
            "ids": shown,
        }
    )


def last_answer(history: History) -> LastAnswer:
    """The newest answer that the history has. Raises QueryError without one."""
    entry = history.last()
    query = None if entry is None else _query(entry)
    ids = None if entry is None else entry.get("ids")
    offset = None if entry is None else entry.get("offset")
    if query is None or not isinstance(ids, list) or not isinstance(offset, int):
        raise QueryError(
            "There is no last answer: nothing was asked yet, or history is off. Ask something "
            "with `prolip-search query`, or name the query and the photo."
        )
    return LastAnswer(query, [str(id) for id in ids], offset + 1)


def texts_asked(history: History) -> list[str]:
    """The texts that were asked, newest first, each once."""
    texts = [entry.get("query") for entry in history.read() if entry.get("kind") == "text"]
    return list(dict.fromkeys(text for text in reversed(texts) if isinstance(text, str)))


def _query(entry: Mapping[str, Any]) -> QueryLike | None:
    query = entry.get("query")
    if not isinstance(query, str):
        return None
    makers = {"text": str, "image": Path, "item": StoredItem}
    maker = makers.get(str(entry.get("kind")))
    return None if maker is None else maker(query)
