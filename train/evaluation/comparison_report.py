"""`evaluate compare`: two encoders on the same captioned images, and which differences are real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import ConfigError, TrainingDataError
from prolip_search.train.datasets.captioned import CaptionedImages
from prolip_search.train.evaluation.comparison import (
    Difference,
    difference_table,
    differences,
    sentences,
)
from prolip_search.train.evaluation.encoding import Progress, silent
from prolip_search.train.evaluation.report import Cell, Picture, Report, Table
from prolip_search.train.evaluation.retrieval import DIRECTIONS, Direction, Score
from prolip_search.train.evaluation.retrieval_report import (
    DIRECTION_NAMES,
    RetrievalEvaluation,
    evaluate_retrieval,
    recall_bars,
)
from prolip_search.train.evaluation.uncertainty import N_BINS, Binned, binned

__all__ = ["Comparison", "evaluate_comparison"]

COMPARED: tuple[Score, ...] = ("csd", "cosine")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two encoders on one data set. names: what they are called in the report, in order.

    failures: for each name and direction, the query's uncertainty against whether its first result
    is right; empty for fewer queries than bins.
    """

    names: tuple[str, str]
    first: RetrievalEvaluation
    second: RetrievalEvaluation
    differences: list[Difference]
    failures: Mapping[tuple[str, Direction], Binned]

    def to_json(self) -> dict[str, Any]:
        """Both retrievals, the differences, and how uncertainty goes with failure."""
        first, second = self.names
        return {
            "task": "compare",
            "first": {"name": first, "retrieval": self.first.to_json()},
            "second": {"name": second, "retrieval": self.second.to_json()},
            "differences, second less first": [one.to_json() for one in self.differences],
            "in words": sentences(self.differences, first, second),
            "uncertainty and first result": {
                name: {
                    direction: some.to_json()
                    for (of, direction), some in self.failures.items()
                    if of == name
                }
                for name in self.names
            },
        }

    def report(self) -> Report:
        """What is better at what, in words and figures."""
        first, second = self.names
        tables = [
            difference_table(f"{second} less {first}", self.differences, first, second),
        ]
        if self.failures:
            tables.append(_failure_table(self.failures))
        pairs = self.first.pairs
        text = [
            f"`{first}` (fingerprint `{self.first.encoder.fingerprint[:16]}…`) and `{second}` "
            f"(fingerprint `{self.second.encoder.fingerprint[:16]}…`) on the same "
            f"{len(pairs.images):,} images and {len(pairs.texts):,} captions of {pairs.name}.",
            "\n".join(f"- {words}" for words in sentences(self.differences, first, second)),
        ]
        rankings = {
            name: [
                evaluation.by_matches["captions"].of("csd", direction) for direction in DIRECTIONS
            ]
            for name, evaluation in zip(self.names, (self.first, self.second), strict=True)
        }
        picture = Picture(
            "recalls",
            "Recall at 1, 5 and 10 by csd, with 95 % intervals over images",
            lambda: recall_bars(rankings),
        )
        return Report(f"{first} and {second}", text, tables, self.to_json(), [picture])


def evaluate_comparison(
    first: Encoder,
    second: Encoder,
    data: CaptionedImages,
    *,
    names: tuple[str, str] | None = None,
    eccv: bool = False,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Both encoders on the same data, by csd and by cosine.

    names: what to call them, else their own. eccv: as in `evaluate_retrieval`. Raises ConfigError
    for one encoder twice, and whatever `evaluate_retrieval` raises.
    """
    if first.fingerprint == second.fingerprint:
        raise ConfigError(
            f"{first.name} and {second.name} are the same encoder; compare two different ones."
        )
    names = names if names is not None else (first.name, second.name)
    if names[0] == names[1]:
        names = (f"{names[0]} {first.fingerprint[:8]}", f"{names[1]} {second.fingerprint[:8]}")

    def run(encoder: Encoder, name: str) -> RetrievalEvaluation:
        return evaluate_retrieval(
            encoder,
            data,
            eccv=eccv,
            cache=cache,
            progress=lambda what, done, total: progress(f"{name}: {what}", done, total),
        )

    a, b = run(first, names[0]), run(second, names[1])
    if list(a.pairs.ids) != list(b.pairs.ids):
        raise TrainingDataError(f"{data.name} changed while it was read; compare once more.")
    found = differences(
        {
            _where(score, direction, matches): (
                a.by_matches[matches].of(score, direction),
                b.by_matches[matches].of(score, direction),
            )
            for matches in a.by_matches
            for direction in DIRECTIONS
            for score in COMPARED
        }
    )
    failures = {
        (name, direction): some
        for name, evaluation in zip(names, (a, b), strict=True)
        for direction, some in _failures(evaluation).items()
    }
    return Comparison(names, a, b, found, failures)


def _where(score: Score, direction: Direction, matches: str) -> str:
    name = f"{DIRECTION_NAMES[direction]} by {score}"
    return name if matches == "captions" else f"{name}, {matches}"


def _failures(evaluation: RetrievalEvaluation) -> dict[Direction, Binned]:
    """The uncertainty of what asks, against R@1 by csd."""
    found: dict[Direction, Binned] = {}
    pairs = evaluation.pairs
    for direction, name in DIRECTION_NAMES.items():
        ranking = evaluation.by_matches["captions"].of("csd", direction)
        asking = pairs.texts if direction == "t2i" else pairs.images
        if len(ranking.queries) >= N_BINS:
            found[direction] = binned(
                name,
                asking.uncertainty[ranking.queries],
                np.asarray(ranking.first == 1, dtype=np.float64),
                ranking.images,
            )
    return found


def _failure_table(failures: Mapping[tuple[str, Direction], Binned]) -> Table:
    rows: list[list[Cell]] = [
        [name, some.name, str(some.r), str(some.rho)] for (name, _), some in failures.items()
    ]
    return Table(
        "Uncertainty of the query against R@1",
        ["encoder", "direction", "Pearson, ten bins", "Spearman, queries"],
        rows,
        note="−1 is ideal: the more uncertain the query, the more often it fails.",
    )
