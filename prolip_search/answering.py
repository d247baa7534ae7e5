"""From queries to answers: search, and what the calibration says of what was found."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from prolip_search.confidence.calibration import ConfidenceModel, KindModel
from prolip_search.confidence.defaults import default_model
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.relation import relation
from prolip_search.confidence.scoring import (
    QueryConfidence,
    ResultConfidence,
    score,
    score_results,
)
from prolip_search.distances import MatchLogit, inclusion
from prolip_search.errors import QueryError
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.evidence import Evidence
from prolip_search.indexes.filters import Filter
from prolip_search.indexes.ranking import RankBy
from prolip_search.indexes.store import Store
from prolip_search.results import Calibration, Kind, Query, SearchResults, plain
from prolip_search.timings import Timings

log = logging.getLogger(__name__)

RESULT_COLUMNS = ["id", "kind", "path", "text", "metadata", "uncertainty"]
# A shipped calibration knows how queries look at thousands of photos. In a handful the best match
# is a good part of the background itself, and what was fitted elsewhere says nothing.
SMALLEST_FOR_DEFAULT = 100
FURTHEST = 1e3  # CSD that stands for a result that is not there

Floats = NDArray[np.float32]


class SearchOptions(TypedDict, total=False):
    """The options of SearchEngine.search, which says what they mean."""

    kinds: Sequence[Kind]
    rank_by: RankBy
    offset: int
    where: str | Filter | None
    coverage: float
    min_confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to search for, and how sure to be. See SearchEngine.search. Raises QueryError."""

    k: int = 10
    kinds: Sequence[Kind] = ("image",)
    rank_by: RankBy = "csd"
    offset: int = 0
    where: str | Filter | None = None
    coverage: float = 0.9
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.coverage < 1.0:
            raise QueryError(f"A coverage lies between 0 and 1, such as 0.9; not {self.coverage}.")
        if self.min_confidence is not None and not 0.0 <= self.min_confidence <= 1.0:
            raise QueryError(f"A confidence lies in 0 to 1, not {self.min_confidence}.")

    def of_store(self) -> dict[str, Any]:
        """The arguments of Store.search that do not change with the query."""
        return {"kinds": self.kinds, "rank_by": self.rank_by, "where": Filter.of(self.where)}


@dataclass(frozen=True, slots=True)
class _Group:
    """Queries that are answered together: at `rows` of all, of one kind, all items or none."""

    kind: str | None  # of calibration; None for queries that no calibration is about
    rows: list[int]
    items: list[int] | None  # their row ids


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found for one query: K rows, and what is known of them."""

    row_ids: NDArray[np.int64]
    csd: Floats
    results: ResultConfidence | None  # [1, K] each
    query: QueryConfidence | None  # of one query
    calibration: Calibration


def confidence_model(store: Store) -> ConfidenceModel | None:
    """What confidences are computed with: fitted here, or else shipped with the encoder."""
    kept, fingerprint = store.manifest.calibration, store.encoder.fingerprint
    if kept is not None:
        try:
            model = ConfidenceModel.from_json(kept).for_encoder(fingerprint)
        except ValueError as error:
            log.warning(
                "The calibration in manifest.json cannot be read (%s); "
                "`prolip-search calibrate --refit` makes it again.",
                error,
            )
        else:
            if model is not None:
                return model
    return default_model(fingerprint)


def answers(
    store: Store,
    gaussians: Gaussians,
    described: Sequence[Query],
    items: Sequence[int | None],
    wanted: Wanted,
    model: ConfidenceModel | None,
    timings: Timings,
) -> list[SearchResults]:
    """The answers of Q queries [Q, D], in order. items [Q]: the row of a query that is an item.

    What is found, and in which order, does not depend on the model. Raises QueryError for a least
    confidence where there are no confidences.
    """
    found: list[_Found | None] = [None] * len(described)
    with timings.stage("search"):
        for group in _groups(store, described, items):
            if set(wanted.kinds) != {"image"}:
                group = replace(group, kind=None)  # people judged pictures
            known = KindModel() if model is None or group.kind is None else model.of(group.kind)
            if wanted.min_confidence is not None and known.match is None:
                raise QueryError(no_confidences(group.kind))
            for at, one in _search(store, gaussians, group, wanted, known, model):
                found[at] = one
    threshold = None if model is None else model.relation_threshold
    with timings.stage("fetch"):
        return [
            _answer(store, query, gaussians[at], one, wanted, threshold)
            for at, (query, one) in enumerate(zip(described, found, strict=True))
            if one is not None
        ]


def query_evidence(
    evidence: Evidence, uncertainty: NDArray[Any], logit: MatchLogit
) -> QueryEvidence:
    """The same in match logits: what calibrations are made of. uncertainty [Q] of the queries."""
    return QueryEvidence(
        logits=logit.logit(evidence.nearest),
        reference=logit.logit(evidence.reference),
        beyond=evidence.beyond,
        uncertainty=uncertainty.astype(np.float64),
        n_items=max(evidence.n_items, 1),
        repeats=evidence.repeats,
    )


def calibration_of(model: ConfidenceModel | None, kind: str | None) -> Calibration:
    """How far confidences of one kind of query may be trusted."""
    known = KindModel() if model is None or kind is None else model.of(kind)
    if model is None or known.status == "none":
        return Calibration()
    return Calibration(
        status=known.status,
        n_judged=known.n_judged,
        smece=None if known.quality is None else known.quality.smece,
        fitted_at=model.fitted_at,
    )


def _groups(
    store: Store, described: Sequence[Query], items: Sequence[int | None]
) -> Iterator[_Group]:
    members: dict[tuple[str | None, bool], list[int]] = {}
    rows = [row for row in items if row is not None]
    kinds = iter(store.rows(rows, ["kind"])["kind"].to_pylist() if rows else [])
    for at, query in enumerate(described):
        kind = next(kinds) if items[at] is not None else query.kind
        members.setdefault((kind, items[at] is not None), []).append(at)
    for (kind, is_item), group in members.items():
        own = [row for at in group if (row := items[at]) is not None] if is_item else None
        yield _Group(kind if kind in ("text", "image") else None, group, own)


def _search(
    store: Store,
    gaussians: Gaussians,
    group: _Group,
    wanted: Wanted,
    known: KindModel,
    model: ConfidenceModel | None,
) -> Iterator[tuple[int, _Found]]:
    """Each query of a group, by its place among all, with what was found for it."""
    queries = gaussians[np.array(group.rows)]
    # A stored item is not its own answer: fetch one more and leave it out.
    n_extra = int(group.items is not None)
    first = 0 if n_extra else wanted.offset
    k = wanted.k + n_extra + wanted.offset - first
    evidence = None
    if known.match is None and known.cutoff is None and known.uncertainty is None:
        hits = store.search(queries, k, offset=first, **wanted.of_store())
    else:
        hits, gathered = store.search_with_evidence(
            queries, k, offset=first, itself=group.items, **wanted.of_store()
        )
        logit = store.encoder.match_logit
        n_seen = 0 if gathered is None else gathered.reference.shape[1]
        if gathered is not None and (known.status != "default" or n_seen >= SMALLEST_FOR_DEFAULT):
            evidence = query_evidence(gathered, queries.uncertainty, logit)
    if known.status == "default" and evidence is None:
        model = None
        if wanted.min_confidence is not None:
            raise QueryError(no_confidences(group.kind))
    calibration = calibration_of(model, group.kind)
    about_queries = about_results = None
    if model is not None and group.kind is not None and evidence is not None:
        about_queries = score(
            model, group.kind, evidence, coverage=wanted.coverage, with_results=False
        )
        logits = store.encoder.match_logit.logit(np.minimum(hits.csd, FURTHEST).astype(np.float64))
        about_results = score_results(model, group.kind, evidence, logits)
    for number, at in enumerate(group.rows):
        own = -1 if group.items is None else group.items[number]
        kept = (hits.row_id[number] >= 0) & (hits.row_id[number] != own)
        chosen = np.flatnonzero(kept)[wanted.offset - first :][: wanted.k]
        yield (
            at,
            _Found(
                row_ids=hits.row_id[number, chosen],
                csd=hits.csd[number, chosen],
                results=_columns(about_results, number, chosen),
                query=_row(about_queries, number),
                calibration=calibration,
            ),
        )


def _answer(
    store: Store,
    query: Query,
    gaussians: Gaussians,
    found: _Found,
    wanted: Wanted,
    relation_threshold: float | None,
) -> SearchResults:
    ranks = None
    if wanted.min_confidence is not None and found.results is not None:
        kept = np.flatnonzero(found.results.confidence[0] >= wanted.min_confidence)
        ranks = [wanted.offset + 1 + int(at) for at in kept]
        found = replace(
            found,
            row_ids=found.row_ids[kept],
            csd=found.csd[kept],
            results=_columns(found.results, 0, kept),
        )
    rows = store.rows(found.row_ids, RESULT_COLUMNS).to_pydict()
    directions: Floats = inclusion(store.gaussians(found.row_ids), gaussians)[:, 0]
    shown = found.results
    relations = None
    if shown is not None and relation_threshold is not None:
        relations = [
            relation(float(h), float(p), dim=gaussians.dim, threshold=relation_threshold)
            for h, p in zip(directions, shown.confidence[0], strict=True)
        ]
    about = found.query
    cutoff = None
    if about is not None and about.cutoff is not None and wanted.rank_by == "csd":
        cutoff = int(about.cutoff[0])
    if about is not None and about.uncertainty_percentile is not None:
        query = replace(
            query,
            uncertainty_percentile=_plain(about.uncertainty_percentile),
            is_broad=about.is_broad is not None and bool(about.is_broad[0]),
        )
    return SearchResults(
        query=query,
        root=store.root,
        ids=rows["id"],
        kinds=rows["kind"],
        paths=rows["path"],
        texts=rows["text"],
        metadata=rows["metadata"],
        csd=found.csd,
        model_probability=store.encoder.match_logit.probability(found.csd),
        inclusion=directions,
        uncertainty=np.array(rows["uncertainty"], np.float32),
        confidence=None if shown is None else shown.confidence[0].astype(np.float32),
        confidence_low=None if shown is None else shown.low[0].astype(np.float32),
        confidence_high=None if shown is None else shown.high[0].astype(np.float32),
        relations=relations,
        ranks=ranks,
        rank_by=wanted.rank_by,
        offset=wanted.offset,
        calibration=found.calibration,
        none_probability=None if about is None else _plain(about.none_probability),
        expected_matches=None if about is None else _plain(about.expected_matches),
        cutoff=cutoff,
        coverage=None if cutoff is None else wanted.coverage,
    )


def _columns(
    results: ResultConfidence | None, row: int, chosen: NDArray[np.int64]
) -> ResultConfidence | None:
    """Some results of one query."""
    if results is None:
        return None
    some = (
        values[row : row + 1, chosen] for values in (results.confidence, results.low, results.high)
    )
    return ResultConfidence(*some)


def _row(about: QueryConfidence | None, row: int) -> QueryConfidence | None:
    """Of many queries the one."""
    if about is None:
        return None

    def one(values: NDArray[Any] | None) -> Any:
        return None if values is None else values[row : row + 1]

    return replace(
        about,
        results=None,
        none_probability=one(about.none_probability),
        expected_matches=one(about.expected_matches),
        cutoff=one(about.cutoff),
        uncertainty_percentile=one(about.uncertainty_percentile),
        is_broad=one(about.is_broad),
    )


def _plain(values: NDArray[np.float64] | None) -> float | None:
    """The one value, as short as float32 is exact."""
    return None if values is None else plain(np.float32(values[0]))


def no_confidences(kind: str | None = None) -> str:
    """The words for somebody who asks for confidences of a kind of query that has none."""
    asked = {"text": "Texts", "image": "Pictures"}.get(kind or "", "Such searches")
    return (
        f"{asked} have no confidences here, so there is none to ask for. Run `prolip-search "
        "calibrate` first, or leave the least confidence out."
    )
