"""How tests make items and stores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prolip_search.distances import MatchLogit
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.manifest import EncoderRecord
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians

FINGERPRINT = "0123456789abcdef" * 4


def record(dim: int = 8, **changes: Any) -> EncoderRecord:
    values: dict[str, Any] = {
        "name": "fake",
        "fingerprint": FINGERPRINT,
        "dim": dim,
        "match_logit": MatchLogit(scale=10.0, bias=-5.0),
    }
    return EncoderRecord(**(values | changes))


def items(
    gaussians: Gaussians,
    *,
    ids: Sequence[str] | None = None,
    kind: str = "image",
    **columns: Sequence[object],
) -> pa.Table:
    """Rows for `Store.append`: ids item-0, item-1, … at paths <id>.jpg, unless told otherwise."""
    ids = ids if ids is not None else [f"item-{number}" for number in range(len(gaussians))]
    table = {
        "id": pa.array(ids, pa.string()),
        "kind": pa.array([kind] * len(ids)),
        "path": pa.array([f"{name}.jpg" for name in ids], pa.string()),
        "size_bytes": pa.array(range(len(ids)), pa.int64()),
        "mtime_ns": pa.array(range(len(ids)), pa.int64()),
        "content_hash": pa.array([f"hash of {name}" for name in ids], pa.string()),
        "mean": vectors(gaussians.mean),
        "log_variance": vectors(gaussians.log_variance),
    }
    return pa.table(table | columns)


def judged(ids: Sequence[str | None], *, dim: int = 8, **columns: Sequence[object]) -> pa.Table:
    """Rows for `Store.record_judgements`: one text matched each item, unless told otherwise."""
    gaussian = make_gaussians(1, dim, 99)
    n = len(ids)
    table = {
        "query_kind": ["text"] * n,
        "query_text": ["a dog"] * n,
        "query_mean": [gaussian.mean[0].tolist()] * n,
        "query_log_variance": [gaussian.log_variance[0].tolist()] * n,
        "item_id": pa.array(ids, pa.string()),
        "item_hash": [None if id is None else f"hash of {id}" for id in ids],
        "label": ["none" if id is None else "match" for id in ids],
        "source": ["judge"] * n,
        "rank": list(range(1, n + 1)),
        "judged_probability": [0.28] * n,
        "size_then": [20] * n,
        "encoder": [FINGERPRINT] * n,
        "time": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * n, pa.timestamp("us", "UTC")),
    }
    return pa.table(table | columns)


def vectors(array: np.ndarray[Any, Any]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(array).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def new_store(parent: Path, dim: int = 8) -> Store:
    return Store.create(parent / INDEX_FOLDER, encoder=record(dim))


def filled_store(parent: Path, n: int = 20, dim: int = 8, seed: int = 0) -> Store:
    """A store of n images with up-to-date derived files."""
    store = new_store(parent, dim)
    store.append(items(make_gaussians(n, dim, seed)))
    store.refresh_index()
    return store


def hit_ids(store: Store, queries: Gaussians, k: int, **options: Any) -> list[list[str]]:
    """The ids that a search finds, best first."""
    found = store.search(queries, k, **options)
    return [
        store.rows(row[row >= 0], ["id"])["id"].to_pylist() for row in found.row_id
    ]  # fmt: skip
