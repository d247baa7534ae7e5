"""From what somebody said of a query and an item to a row of judgements.lance."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from PIL.Image import Image

from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import ItemNotFound, QueryError
from prolip_search.files import content_hash, read_file
from prolip_search.images import quiet_pillow, read_image
from prolip_search.indexes.store import Store
from prolip_search.queries import QueryLike, StoredItem, encode_queries

Label = Literal["match", "no_match", "target", "none"]
Source = Literal["judge", "pairs", "thumbs"]

KEPT_SIDE = 384  # pixels of the longer side of a picture that is kept to be encoded again
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One thing that somebody said. item: an id; None where the label is "none".

    rank: of the item when it was judged. probability: with which it was chosen to be asked about.
    """

    query: QueryLike
    item: str | None
    label: Label
    source: Source = "judge"
    rank: int | None = None
    probability: float | None = None


def record(store: Store, encoder: Callable[[], Encoder], judgements: Sequence[Judgement]) -> int:
    """Adds judgements in one commit, all of them or none; how many were new.

    A pair that is there already is not added again. Each query is encoded once. Raises
    ItemNotFound for an item that is not in the index, QueryError for Gaussians, of which nothing
    would be left to encode with another encoder, and what `encode_queries` raises.
    """
    stored = store.judgements() if judgements else None
    if stored is not None:
        judgements = _new(stored, judgements)
    if stored is None or not judgements:
        return 0
    hashes = _hashes_of(store, [j.item for j in judgements if j.item is not None])
    queries: dict[object, QueryLike] = {_identity(j.query): j.query for j in judgements}
    gaussians, _ = encode_queries(list(queries.values()), store, encoder)
    known = set(stored["query_hash"].to_pylist())
    described = {
        identity: _query_columns(store, query, known) for identity, query in queries.items()
    }
    at = {identity: number for number, identity in enumerate(queries)}
    now, size = datetime.now(UTC), store.count("image")
    rows: list[dict[str, Any]] = []
    for judgement in judgements:
        identity = _identity(judgement.query)
        columns = described[identity]
        gaussian = gaussians[at[identity]]
        rows.append(
            {
                **columns,
                "query_mean": gaussian.mean[0].tolist(),
                "query_log_variance": gaussian.log_variance[0].tolist(),
                "item_id": judgement.item,
                "item_hash": None if judgement.item is None else hashes[judgement.item],
                "label": judgement.label,
                "source": judgement.source,
                "rank": judgement.rank,
                "judged_probability": judgement.probability,
                "size_then": size,
                "encoder": store.encoder.fingerprint,
                "time": now,
            }
        )
        described[identity] = columns | {"query_image": None}  # once is enough
    columns = {name: _array(name, [row[name] for row in rows]) for name in rows[0]}
    store.record_judgements(pa.table(columns))
    return len(rows)


def _new(stored: pa.Table, judgements: Sequence[Judgement]) -> list[Judgement]:
    """Without pairs that are stored, so that a file may be read again."""
    pairs = stored.filter(pc.equal(stored["label"], "target"))
    there = set(zip(pairs["query_text"].to_pylist(), pairs["item_id"].to_pylist(), strict=True))
    return [
        judgement
        for judgement in judgements
        if judgement.label != "target"
        or not isinstance(judgement.query, str)
        or (judgement.query, judgement.item) not in there
    ]


def _array(name: str, values: list[Any]) -> pa.Array:
    from prolip_search.indexes.judgements import JUDGEMENTS_SCHEMA

    return pa.array(values, JUDGEMENTS_SCHEMA.field(name).type)


def _identity(query: QueryLike) -> object:
    return id(query) if isinstance(query, Image) else query


def _hashes_of(store: Store, ids: Sequence[str]) -> dict[str, str | None]:
    table = store.table(["id", "content_hash"])
    table = table.filter(pc.is_in(table["id"], pa.array(ids, pa.string())))
    found = dict(zip(table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))
    for id in ids:
        if id not in found:
            raise ItemNotFound(
                f"There is no item {id!r} in the index at {store.folder}; nothing was recorded."
            )
    return found


def _query_columns(store: Store, query: QueryLike, known: set[str | None]) -> dict[str, Any]:
    """What the table says of a query, its Gaussian apart. known: pictures that it has already."""
    if isinstance(query, str):
        return {"query_kind": "text", "query_text": query, "query_hash": None, "query_image": None}
    if isinstance(query, StoredItem):
        row = store.row_of(query.id)
        assert row is not None  # it was encoded
        item = store.rows([row], ["kind", "text", "path", "content_hash"]).to_pylist()[0]
        if item["kind"] == "text":
            return _query_columns(store, item["text"] or query.id, known)
        columns = {"query_text": item["path"], "query_hash": item["content_hash"] or query.id}
        return {"query_kind": "image", "query_image": None, **columns}
    if isinstance(query, Path):
        digest = content_hash(read_file(query))
        with quiet_pillow():
            pixels = read_image(query, min_side=KEPT_SIDE).pixels
        return _picture(pixels, digest, str(query), known)
    if isinstance(query, Image):
        content = f"image/{query.mode}/{query.size}/".encode() + query.tobytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        return _picture(query.convert("RGB"), digest, None, known)
    raise QueryError(
        "Judge the answer to a text or a picture: of Gaussians nothing is left that another "
        "encoder could read."
    )


def _picture(
    pixels: Image, digest: str, name: str | None, known: set[str | None]
) -> dict[str, Any]:
    kept = None
    if digest not in known:
        small = pixels.copy()
        small.thumbnail((KEPT_SIDE, KEPT_SIDE))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=JPEG_QUALITY)
        kept = stream.getvalue()
    columns = {"query_text": name, "query_hash": digest, "query_image": kept}
    return {"query_kind": "image", **columns}
