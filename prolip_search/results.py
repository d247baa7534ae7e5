"""What a search gives back: arrays over all results, and one result as an object when asked.

One schema for the library, JSON and Arrow. A calibration fills the confidence fields; without one
they are None and `calibration.status` is "none": the model's own probability is not a confidence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal["image", "text"]
QueryKind = Literal["text", "image", "item", "gaussians"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far confidences may be trusted: fitted here, shipped with the encoder, or not at all."""

    status: Literal["own", "default", "none"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What was asked. text: the words, the file's path or the item's id, for people and logs.

    uncertainty: u > 0, larger is broader. truncated: the encoder read only the text's beginning.
    """

    kind: QueryKind
    text: str
    uncertainty: float
    uncertainty_percentile: float | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """One item of the answer.

    rank: from 1. csd: distance to the query, smaller is closer. model_probability: the encoder's
    own match probability in [0, 1], uncalibrated. inclusion: H(item ⊂ query) in nats, positive
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
    texts, metadata as stored JSON. csd, model_probability, inclusion, uncertainty: float32 [K].
    offset: how many better results were left out before these. root: what paths are relative to.
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
        return self[0].confidence if len(self) else None

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
            rank=self.offset + i + 1,
            id=self.ids[i],
            kind=self.kinds[i],
            path=path,
            file=None if path is None else absolute(self.root, path),
            text=self.texts[i],
            csd=plain(self.csd[i]),
            confidence=None,
            confidence_low=None,
            confidence_high=None,
            model_probability=plain(self.model_probability[i]),
            inclusion=plain(self.inclusion[i]),
            relation=None,
            uncertainty=plain(self.uncertainty[i]),
            metadata=None if metadata is None else json.loads(metadata),
        )

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
            "calibration": {"status": self.calibration.status},
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
        nothing = pa.nulls(len(self), pa.float32())
        return pa.table(
            {
                "rank": pa.array(range(self.offset + 1, self.offset + len(self) + 1), pa.int64()),
                "id": pa.array(self.ids, pa.string()),
                "kind": pa.array(self.kinds, pa.string()),
                "path": pa.array(self.paths, pa.string()),
                "file": pa.array([r.to_dict()["file"] for r in self], pa.string()),
                "text": pa.array(self.texts, pa.string()),
                "csd": pa.array(self.csd, pa.float32()),
                "confidence": nothing,
                "confidence_low": nothing,
                "confidence_high": nothing,
                "model_probability": pa.array(self.model_probability, pa.float32()),
                "inclusion": pa.array(self.inclusion, pa.float32()),
                "relation": pa.nulls(len(self), pa.string()),
                "uncertainty": pa.array(self.uncertainty, pa.float32()),
                "metadata": pa.array(self.metadata, pa.string()),
            }
        )


def absolute(root: Path, path: str) -> Path:
    """A stored path as a file on this machine; `..` is taken literally, no link is followed."""
    return Path(os.path.normpath(root / path))


def plain(value: np.floating[Any]) -> float:
    """The shortest number that is the same float32: 0.1 and not 0.10000000149."""
    return float(str(value))
