"""Fitting a calibration from what an index remembers of judgements, and keeping it up to date.

Labels are about queries and items and outlive both growth and encoders; what they are worth, the
features, is computed anew from the current index at every fit. Never during a search.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from prolip_search.answering import query_evidence
from prolip_search.confidence.calibration import ConfidenceModel
from prolip_search.confidence.defaults import default_model
from prolip_search.confidence.evidence import QueryEvidence
from prolip_search.confidence.fitting import Labels, Targets, fit
from prolip_search.confidence.relation import relation_threshold
from prolip_search.distances import csd_rows, inclusion
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import ProlipSearchError
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.evidence import Evidence
from prolip_search.indexes.store import Store

log = logging.getLogger(__name__)

# When a fit is due: after so many new labels, or when the collection changed by more than this.
NEW_LABELS = 25
CHANGED_SHARE = 0.1
LARGEST_BATCH = 256  # queries that look at the whole collection at once
MOST_PAIRS = 2048  # the newest ones; a cutoff keeps no more scores
RANDOM_QUERIES, RANDOM_ITEMS = 100, 100  # whose inclusions say how large one is by chance

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def is_due(store: Store) -> bool:
    """Whether the calibration should be fitted again: the collection or the labels have changed."""
    n_rows = store.count_judgements()
    kept = store.manifest.calibration
    if kept is None or n_rows == 0:
        return n_rows >= NEW_LABELS or kept is not None
    n_then, rows_then = kept.get("n_stored"), kept.get("n_judgements")
    if not isinstance(n_then, int) or not isinstance(rows_then, int):
        return n_rows > 0
    changed = abs(store.count_stored() - n_then) > CHANGED_SHARE * n_then
    return changed or n_rows - rows_then >= NEW_LABELS


def refit_if_due(store: Store, encoder: Callable[[], Encoder], *, is_rebuilt: bool = False) -> bool:
    """Fits again where that is due, after a commit; whether it was. What fails is only logged.

    is_rebuilt: the table is a new one, and there is no calibration of it yet.
    """
    try:
        if not (is_rebuilt and store.count_judgements()) and not is_due(store):
            return False
        refit(store, encoder)
    except ProlipSearchError as error:
        log.warning("Confidences were not calibrated again: %s", error)
        return False
    return True


def refit(store: Store, encoder: Callable[[], Encoder]) -> ConfidenceModel | None:
    """Fits from everything that was judged, and keeps the result in the manifest.

    None without labels and without a shipped calibration. The encoder is called only for queries of
    another encoder. Raises IndexDamaged, IndexNotWritable.
    """
    with store.writer():
        judged = _judged(store, encoder)
        labels = {kind: some for kind in judged.kinds if (some := _labels(store, judged, kind))}
        targets = {kind: pairs for kind in judged.kinds if (pairs := _targets(store, judged, kind))}
        prior = default_model(store.encoder.fingerprint)
        if not labels and not targets:
            store.set_calibration(None)
            return prior
        model = fit(
            labels,
            targets,
            fingerprint=store.encoder.fingerprint,
            n_items=store.count("image"),
            prior=prior,
            relation_threshold=_chance_inclusion(store, judged),
            fitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        seen = {"n_judgements": store.count_judgements(), "n_stored": store.count_stored()}
        store.set_calibration(model.to_json() | seen)
    return model


@dataclass(frozen=True, eq=False)
class _Judged:
    """What was judged, seen from the current index: one entry for each query and content.

    queries: key -> (kind, its Gaussian's place); gaussians [Q, D]. rows: of (key, position, row).
    itself: key -> position of the item that the query is.
    """

    queries: dict[str, tuple[str, int]]
    gaussians: Gaussians
    verdicts: dict[tuple[str, str], tuple[int, Mapping[str, Any]]]
    targets: dict[tuple[str, str], tuple[int, Mapping[str, Any]]]
    nothing: set[str]
    itself: dict[str, int]
    thumb_propensity: dict[int, float]

    @property
    def kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self.queries.values()})


def _judged(store: Store, encoder: Callable[[], Encoder]) -> _Judged:
    table = _of_this_encoder(store, encoder)
    items = _Items(store)
    queries: dict[str, tuple[str, int]] = {}
    gaussian_rows: list[int] = []
    verdicts: dict[tuple[str, str], tuple[int, Mapping[str, Any]]] = {}
    targets: dict[tuple[str, str], tuple[int, Mapping[str, Any]]] = {}
    nothing: set[str] = set()
    itself: dict[str, int] = {}
    thumbs: Counter[int] = Counter()
    light = table.drop_columns(["query_mean", "query_log_variance", "query_image"])
    for at, row in enumerate(light.to_pylist()):
        if row["encoder"] != store.encoder.fingerprint:
            continue
        is_text = row["query_kind"] == "text"
        key = f"{row['query_kind']}/{row['query_text'] if is_text else row['query_hash']}"
        row_id, content = items.find(row["item_id"], row["item_hash"])
        if row["label"] != "none" and row_id is None:
            continue  # it left the index
        if key not in queries:
            queries[key] = row["query_kind"], len(gaussian_rows)
            gaussian_rows.append(at)
            own = None if is_text else items.find(None, row["query_hash"])[0]
            if own is not None:
                itself[key] = own
        if row["source"] == "thumbs" and row["rank"] is not None:
            thumbs[row["rank"]] += 1
        if row["label"] == "none":
            nothing.add(key)
        elif row_id is not None:
            about = targets if row["label"] == "target" else verdicts
            about[key, content] = row_id, row  # the last word counts
    gaussians = Gaussians(
        *(_vectors(table, name, gaussian_rows, store.encoder.dim) for name in VECTORS)
    )
    return _Judged(
        queries=queries,
        gaussians=gaussians,
        verdicts=verdicts,
        targets=targets,
        nothing=nothing,
        itself=itself,
        thumb_propensity=_thumb_propensity(store, thumbs),
    )


VECTORS = ("query_mean", "query_log_variance")


def _vectors(table: pa.Table, name: str, rows: Sequence[int], dim: int) -> NDArray[np.float32]:
    chosen = table[name].combine_chunks().take(pa.array(rows, pa.int64()))
    flat: NDArray[np.float32] = chosen.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(rows), dim)


class _Items:
    """Images of the index by id and by content."""

    def __init__(self, store: Store) -> None:
        table = store.table(["row_id", "id", "content_hash", "kind"])
        columns = (table[name].to_pylist() for name in ("row_id", "id", "content_hash", "kind"))
        self._by_id: dict[str, tuple[int, str]] = {}
        self._by_content: dict[str, tuple[int, str]] = {}
        for row_id, id, content, kind in zip(*columns, strict=True):
            if kind == "image":
                self._by_id[id] = self._by_content[content or id] = row_id, content or id

    def find(self, id: str | None, content: str | None) -> tuple[int | None, str]:
        """The row of an item, and what tells its content apart; None where there is no such."""
        found = self._by_id.get(id or "") or self._by_content.get(content or "")
        return found or (None, "")


def _labels(store: Store, judged: _Judged, kind: str) -> Labels | None:
    rows = {key: row for key, row in judged.verdicts.items() if judged.queries[key[0]][0] == kind}
    nothing = {key for key in judged.nothing if judged.queries[key][0] == kind}
    keys = sorted({query for query, _ in rows} | nothing)
    if not keys:
        return None
    place = {key: at for at, key in enumerate(keys)}
    seen = _look(store, judged, keys)
    if seen is None:
        return None
    evidence, _ = seen
    query = np.array([place[key] for key, _ in rows], np.int64)
    row_ids = np.array([row_id for row_id, _ in rows.values()], np.int64)
    facts = [row for _, row in rows.values()]
    return Labels(
        evidence=evidence,
        keys=keys,
        nothing=np.array([key in nothing for key in keys], np.bool_),
        query=query,
        logits=_logits(store, judged, keys, query, row_ids),
        is_match=np.array([row["label"] == "match" for row in facts], np.bool_),
        propensity=np.array([_propensity(judged, row) for row in facts], np.float64),
        rank=np.array([row["rank"] or 1 for row in facts], np.int64),
        is_thumb=np.array([row["source"] == "thumbs" for row in facts], np.bool_),
    )


def _targets(store: Store, judged: _Judged, kind: str) -> Targets | None:
    pairs = [(k, row) for k, row in judged.targets.items() if judged.queries[k[0]][0] == kind]
    pairs = pairs[-MOST_PAIRS:]
    keys = sorted({query for (query, _), _ in pairs})
    seen = _look(store, judged, keys) if keys else None
    if seen is None:
        return None
    evidence, raw = seen
    place = {key: at for at, key in enumerate(keys)}
    query = np.array([place[key] for (key, _), _ in pairs], np.int64)
    row_ids = np.array([row_id for _, (row_id, _) in pairs], np.int64)
    logits = _logits(store, judged, keys, query, row_ids)
    positions = store.positions_of(row_ids)
    for at, (q, position) in enumerate(zip(query, positions, strict=True)):
        # As the search computes it, or an item might seem to outrank itself by rounding.
        for where, distances in ((raw.sampled, raw.reference), (raw.positions, raw.nearest)):
            same = np.flatnonzero(where[q] == position)
            if len(same):
                logits[at] = store.encoder.match_logit.logit(distances[q, same[0]])
    return Targets(evidence=evidence[query], keys=[keys[at] for at in query], logits=logits)


def _look(
    store: Store, judged: _Judged, keys: Sequence[str]
) -> tuple[QueryEvidence, Evidence] | None:
    """What the collection says of these queries; None of an empty one."""
    rows = np.array([judged.queries[key][1] for key in keys], np.int64)
    itself = [judged.itself.get(key, -1) for key in keys]
    parts: list[Evidence] = []
    for start in range(0, len(rows), LARGEST_BATCH):
        some = slice(start, start + LARGEST_BATCH)
        own = itself[some] if any(one >= 0 for one in itself) else None
        _, found = store.search_with_evidence(judged.gaussians[rows[some]], 1, itself=own)
        if found is None:
            return None
        parts.append(found)
    whole = Evidence.concatenate(parts)
    uncertainty = judged.gaussians[rows].uncertainty
    return query_evidence(whole, uncertainty, store.encoder.match_logit), whole


def _logits(
    store: Store, judged: _Judged, keys: Sequence[str], query: Ints, row_ids: Ints
) -> Doubles:
    """ℓ of pairs of a query and an item, [n]."""
    if len(query) == 0:
        return np.empty(0)
    rows = np.array([judged.queries[key][1] for key in keys], np.int64)
    distances = csd_rows(judged.gaussians[rows[query]], store.gaussians(row_ids))
    logits: Doubles = store.encoder.match_logit.logit(distances.astype(np.float64))
    return logits


def _propensity(judged: _Judged, row: Mapping[str, Any]) -> float:
    """With which probability somebody was to judge this result."""
    if row["source"] == "thumbs":
        return judged.thumb_propensity.get(row["rank"] or 0, 1.0)
    given = row["judged_probability"]
    return float(given) if given is not None and 0.0 < given <= 1.0 else 1.0


def _thumb_propensity(store: Store, thumbs: Counter[int]) -> dict[int, float]:
    """Of each rank, which share of the results that were shown at it got a thumb."""
    shown: Counter[int] = Counter()
    for entry in store.history.read():
        ids, offset = entry.get("ids"), entry.get("offset")
        if isinstance(ids, list) and isinstance(offset, int):
            shown.update(range(offset + 1, offset + len(ids) + 1))
    return {
        rank: min(1.0, (n_thumbs + 1) / (max(shown[rank], n_thumbs) + 1))
        for rank, n_thumbs in thumbs.items()
    }


def _chance_inclusion(store: Store, judged: _Judged) -> float | None:
    """How large |H| / D is between queries and items that were put together by chance."""
    row_ids = store.table(["row_id"])["row_id"].to_numpy()
    if len(row_ids) == 0 or len(judged.gaussians) == 0:
        return None
    rng = np.random.default_rng(0)
    some = rng.choice(np.sort(row_ids), min(RANDOM_ITEMS, len(row_ids)), replace=False)
    n_queries = min(RANDOM_QUERIES, len(judged.gaussians))
    queries = judged.gaussians[rng.permutation(len(judged.gaussians))[:n_queries]]
    return relation_threshold(inclusion(store.gaussians(some), queries).ravel(), queries.dim)


def _of_this_encoder(store: Store, encoder: Callable[[], Encoder]) -> pa.Table:
    """Everything that was judged; queries of another encoder are encoded anew, once for all."""
    table = store.judgements()
    old = [
        at
        for at, made_by in enumerate(table["encoder"].to_pylist())
        if made_by != store.encoder.fingerprint
    ]
    if not old:
        return table
    pictures = _pictures(table)
    items = _Items(store)
    texts: dict[str, list[int]] = {}
    files: dict[str, list[int]] = {}
    for at in old:
        if table["query_kind"][at].as_py() == "text":
            texts.setdefault(table["query_text"][at].as_py(), []).append(at)
        else:
            files.setdefault(table["query_hash"][at].as_py(), []).append(at)
    made: dict[int, Gaussians] = {}
    if texts:
        encoded = encoder().encode_texts(list(texts))
        for number, places in enumerate(texts.values()):
            made |= dict.fromkeys(places, encoded[number])
    n_lost = 0
    for digest, places in files.items():
        own = items.find(digest, digest)[0]
        if own is not None:
            made |= dict.fromkeys(places, store.gaussians([own]))
        elif digest in pictures:
            picture = Image.open(io.BytesIO(pictures[digest])).convert("RGB")
            made |= dict.fromkeys(places, encoder().encode_images([picture]))
        else:
            n_lost += len(places)
    if n_lost:
        log.warning(
            "%d judgements are about pictures that are not kept any more, by another encoder: "
            "they stay, and are not used.",
            n_lost,
        )
    rows = table.to_pylist()
    for at, gaussian in made.items():
        rows[at] |= {
            "query_mean": gaussian.mean[0].tolist(),
            "query_log_variance": gaussian.log_variance[0].tolist(),
            "encoder": store.encoder.fingerprint,
        }
    encoded_anew = pa.Table.from_pylist(rows, schema=table.schema)
    if made:
        store.replace_judgements(encoded_anew)
    return encoded_anew


def _pictures(table: pa.Table) -> dict[str, bytes]:
    """The pictures that are kept, by their hash."""
    pairs = zip(table["query_hash"].to_pylist(), table["query_image"].to_pylist(), strict=True)
    return {digest: kept for digest, kept in pairs if digest is not None and kept is not None}
