"""Differences between two rankings of the same queries, and which of them are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prolip_search.train.evaluation.intervals import clustered_means
from prolip_search.train.evaluation.report import Cell, Table
from prolip_search.train.evaluation.retrieval import MEASURES, Ranking

__all__ = ["Difference", "difference_table", "differences", "sentences"]


@dataclass(frozen=True)
class Difference:
    """One measure of both, in percent, and second − first with its interval.

    The interval is simultaneous: all of those computed together hold at once with 95 %.
    """

    where: str
    measure: str
    first: float
    second: float
    difference: float
    low: float
    high: float

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """All fields, and whether it is real."""
        return {**asdict(self), "real": self.is_real}


def differences(rankings: Mapping[str, tuple[Ranking, Ranking]]) -> list[Difference]:
    """For each pair of rankings of the same queries, the difference of every measure.

    rankings: where -> (first, second). Queries are paired, and drawn together with all others of
    their image, in all pairs at once. Raises ValueError when the two are of different queries.
    """
    blocks, clusters = [], []
    for i, (where, (first, second)) in enumerate(rankings.items()):
        if not np.array_equal(first.queries, second.queries):
            raise ValueError(f"{where}: the two rankings are of different queries.")
        rows = np.full((len(first.queries), len(rankings) * len(MEASURES)), np.nan)
        at = slice(i * len(MEASURES), (i + 1) * len(MEASURES))
        rows[:, at] = second.per_query() - first.per_query()
        blocks.append(rows)
        clusters.append(first.images)
    means = clustered_means(np.concatenate(blocks), np.concatenate(clusters))
    bounds = np.stack([means.value, *means.simultaneous_interval()], axis=1).tolist()
    found: list[Difference] = []
    for where, (first, second) in rankings.items():
        a, b = first.per_query().mean(axis=0).tolist(), second.per_query().mean(axis=0).tolist()
        for measure, x, y in zip(MEASURES, a, b, strict=True):
            found.append(Difference(where, measure, x, y, *bounds[len(found)]))
    return found


def difference_table(title: str, found: Sequence[Difference], first: str, second: str) -> Table:
    """The differences as a table; first, second: what the two are called."""
    rows: list[list[Cell]] = [
        [
            one.where,
            one.measure,
            one.first,
            one.second,
            f"{one.difference:+.1f}",
            f"{one.low:+.1f} to {one.high:+.1f}",
            "real" if one.is_real else "cannot be told from none",
        ]
        for one in found
    ]
    columns = ["where", "measure", first, second, "difference", "95 % interval", "it is"]
    note = (
        f"In percent. The {len(found)} intervals hold at once with 95 %: paired by query, a "
        "bootstrap over images (max-t)."
    )
    return Table(title, columns, rows, note=note)


def sentences(found: Sequence[Difference], first: str, second: str) -> list[str]:
    """The same in words, one sentence for each place: who is better, and at what."""
    words = []
    for where in dict.fromkeys(one.where for one in found):
        here = [one for one in found if one.where == where]
        parts = [
            f"{winner} is better by "
            + ", ".join(f"{abs(one.difference):.1f} ({one.measure})" for one in some)
            for winner, some in (
                (second, [one for one in here if one.low > 0]),
                (first, [one for one in here if one.high < 0]),
            )
            if some
        ]
        level = [one.measure for one in here if not one.is_real]
        if level:
            parts.append(f"the two cannot be told apart by {', '.join(level)}")
        words.append(f"{where}: {'; '.join(parts)}.")
    return words
