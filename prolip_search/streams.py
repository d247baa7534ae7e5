"""Ready rows that arrive as a stream of Arrow batches, cut into commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from prolip_search.errors import QueryError

COMMIT_ROWS = 16_384


def in_commits(batches: pa.Table | Iterable[pa.RecordBatch]) -> Iterable[pa.Table]:
    """The rows of a stream, COMMIT_ROWS at a time or what is left of it, each of a `kind`.

    Raises QueryError for batches of different columns.
    """
    if isinstance(batches, pa.Table):
        batches = batches.to_batches()
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        for start in range(0, batch.num_rows, COMMIT_ROWS):
            waiting.append(batch.slice(start, COMMIT_ROWS))
            if sum(piece.num_rows for piece in waiting) >= COMMIT_ROWS:
                yield _with_kind(waiting)
                waiting = []
    if waiting:
        yield _with_kind(waiting)


def _with_kind(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    try:
        rows = pa.Table.from_batches(batches)
    except pa.ArrowException as error:
        raise QueryError(f"All batches must have the same columns: {error}") from error
    if "kind" in rows.column_names:
        return rows
    return rows.append_column("kind", pa.array(["image"] * len(rows), pa.string()))
