"""What a search gives back: arrays over all results, and one result as an object when asked.

One schema for the library, JSON and Arrow. A calibration fills the confidence fields; without one
they are None and `calibration.status` is "none": the model's own probability is not a confidence.
A match is what a person would accept; a target is the one image that a caption was written for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal["image", "text"]
QueryKind = Literal["text", "image", "item", "gaussians"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far confidences may be trusted: fitted here, shipped with the encoder, or not at all.

    n_judged: labels of this index for this kind of query. smece: how far confidences were from what
    people said, on queries they were not fitted on; None where that was not measured here.
    fitted_at: ISO 8601, of this index's own fit.
    """

    status: Literal["own", "default", "none"] = "none"
    n_judged: int = 0
    smece: float | None = None
    fitted_at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON's types only."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What was asked. text: the words, the file's path or the item's id, for people and logs.

    uncertainty: u > 0, larger is broader; its percentile among stored queries, 0 to 100; is_broad:
    whether it is among the highest and that tells how much matches. truncated: the encoder read
    only the text's beginning.
    """

    kind: QueryKind
    text: str
    uncertainty: float
    uncertainty_percentile: float | None = None
    is_broad: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """One item of the answer.

    rank: from 1. csd: distance to the query, smaller is closer. confidence: how likely a person is
    to say that it matches, in (0, 1), and the 90 % band of that estimate. model_probability: the
    encoder's own match probability in [0, 1], uncalibrated. relation: "item_more_specific",
    "item_more_general" or "unclear". inclusion: H(item ⊂ query) in nats, positive
    where the query is the more general. uncertainty: of the item, larger is vaguer.
    path: posix, relative to the folder that holds the index; file: the same, absolute.
    """

    rank: int
    id: str
    kind: Kind
    path: str | None
    file: Path | None
    text: str | None
    csd: float
    confidence: float | None
    confidence_low: float | None
    confidence_high: float | None
    model_probability: float
    inclusion: float
    relation: str | None
    uncertainty: float
    metadata: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """JSON's types only, keys in the order above."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"file": None if self.file is None else str(self.file)}


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResults(Sequence[SearchResult]):
    """The K results of one query, best first; `results[0]` is a SearchResult, a slice a list.

    ids, kinds, paths, texts, metadata: K values each, a path only for files, a text only for
    texts, metadata as stored JSON. csd, model_probability, inclusion, uncertainty: float32 [K],
    and so are confidence, confidence_low and confidence_high where there is a calibration.
    offset: how many better results were left out before these. root: what paths are relative to.
    ranks: [K] where some results in between were left out, else None.
    none_probability: that nothing in the collection matches. expected_matches: how many do, within
    a factor of two. cutoff: how many of the best results hold the target with probability coverage.
    """

    query: Query
    root: Path
    ids: Sequence[str]
    kinds: Sequence[Kind]
    paths: Sequence[str | None]
    texts: Sequence[str | None]
    metadata: Sequence[str | None]
    csd: NDArray[np.float32]
    model_probability: NDArray[np.float32]
    inclusion: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    confidence: NDArray[np.float32] | None = None
    confidence_low: NDArray[np.float32] | None = None
    confidence_high: NDArray[np.float32] | None = None
    relations: Sequence[str | None] | None = None
    ranks: Sequence[int] | None = None
    rank_by: str = "csd"
    offset: int = 0
    calibration: Calibration = field(default_factory=Calibration)
    none_probability: float | None = None
    expected_matches: float | None = None
    cutoff: int | None = None
    coverage: float | None = None

    @property
    def top_probability(self) -> float | None:
        """The confidence of the first result: how likely it is that the first one is right."""
        if self.confidence is None or not len(self) or self._rank(0) != 1:
            return None
        return plain(self.confidence[0])

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> SearchResult: ...
    @overload
    def __getitem__(self, index: slice) -> list[SearchResult]: ...
    def __getitem__(self, index: int | slice) -> SearchResult | list[SearchResult]:
        if isinstance(index, slice):
            return [self._result(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} results; {index} is not one of them.")
        return self._result(index % len(self))

    def __iter__(self) -> Iterator[SearchResult]:
        return (self._result(i) for i in range(len(self)))

    def __repr__(self) -> str:
        best = f", best {self.paths[0] or self.texts[0]!r}" if len(self) else ""
        return f"SearchResults({self.query.text!r}, K={len(self)}{best})"

    def _result(self, i: int) -> SearchResult:
        path, metadata = self.paths[i], self.metadata[i]
        return SearchResult(
            rank=self._rank(i),
            id=self.ids[i],
            kind=self.kinds[i],
            path=path,
            file=None if path is None else absolute(self.root, path),
            text=self.texts[i],
            csd=plain(self.csd[i]),
            confidence=_value(self.confidence, i),
            confidence_low=_value(self.confidence_low, i),
            confidence_high=_value(self.confidence_high, i),
            model_probability=plain(self.model_probability[i]),
            inclusion=plain(self.inclusion[i]),
            relation=None if self.relations is None else self.relations[i],
            uncertainty=plain(self.uncertainty[i]),
            metadata=None if metadata is None else json.loads(metadata),
        )

    def _rank(self, i: int) -> int:
        return self.offset + i + 1 if self.ranks is None else self.ranks[i]

    def to_dict(self) -> dict[str, Any]:
        """JSON's types only; the stable schema that the command line and a server print."""
        return {
            "query": self.query.text,
            "query_kind": self.query.kind,
            "truncated": self.query.truncated,
            "uncertainty": self.query.uncertainty,
            "uncertainty_percentile": self.query.uncertainty_percentile,
            "none_probability": self.none_probability,
            "expected_matches": self.expected_matches,
            "top_probability": self.top_probability,
            "cutoff": self.cutoff,
            "coverage": self.coverage,
            "calibration": self.calibration.to_dict(),
            "rank_by": self.rank_by,
            "offset": self.offset,
            "root": str(self.root),
            "results": [result.to_dict() for result in self],
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """`to_dict` as text; on one line without `indent`."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent, allow_nan=False)

    def to_arrow(self) -> pa.Table:
        """One row for each result, the columns of SearchResult; metadata stays JSON text."""

        def known(values: NDArray[np.float32] | None) -> pa.Array:
            return pa.nulls(len(self), pa.float32()) if values is None else pa.array(values)

        ranks = [self._rank(i) for i in range(len(self))]
        return pa.table(
            {
                "rank": pa.array(ranks, pa.int64()),
                "id": pa.array(self.ids, pa.string()),
                "kind": pa.array(self.kinds, pa.string()),
                "path": pa.array(self.paths, pa.string()),
                "file": pa.array([r.to_dict()["file"] for r in self], pa.string()),
                "text": pa.array(self.texts, pa.string()),
                "csd": pa.array(self.csd, pa.float32()),
                "confidence": known(self.confidence),
                "confidence_low": known(self.confidence_low),
                "confidence_high": known(self.confidence_high),
                "model_probability": pa.array(self.model_probability, pa.float32()),
                "inclusion": pa.array(self.inclusion, pa.float32()),
                "relation": pa.array(self.relations or [None] * len(self), pa.string()),
                "uncertainty": pa.array(self.uncertainty, pa.float32()),
                "metadata": pa.array(self.metadata, pa.string()),
            }
        )


def _value(values: NDArray[np.float32] | None, i: int) -> float | None:
    return None if values is None else plain(values[i])


def absolute(root: Path, path: str) -> Path:
    """A stored path as a file on this machine; `..` is taken literally, no link is followed."""
    return Path(os.path.normpath(root / path))


def plain(value: np.floating[Any]) -> float:
    """The shortest number that is the same float32: 0.1 and not 0.10000000149."""
    return float(str(value))
