"""Arrow record batches read by position, without copying what is not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prolip_search.indexes.schema import vectors_of


class RowBatches:
    """Rows 0…N−1 that lie in several record batches, memory-mapped or not.

    `pa.Table.take` joins all chunks of a column before it takes from them, which would read a
    memory-mapped table whole; this goes to the batches that hold the rows.
    """

    def __init__(self, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
        self.schema = schema
        self.batches = [batch for batch in batches if batch.num_rows]
        sizes = [batch.num_rows for batch in self.batches]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._vectors: dict[tuple[str, int], NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return pa.chunked_array(
            [batch.column(name) for batch in self.batches], self.schema.field(name).type
        )

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns, without a copy."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_batches([batch.select(columns) for batch in self.batches], schema)

    def take(self, positions: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Some rows of some columns, in the order of `positions`."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        which = self._batch_of(positions)
        if len(self.batches) == 1:
            batch = self.batches[0].select(columns).take(_indices(positions))
            return pa.Table.from_batches([batch], schema)
        parts, order = [], []
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            rows = _indices(positions[here] - self._starts[number])
            parts.append(self.batches[number].select(columns).take(rows))
            order.append(here)
        table = pa.Table.from_batches(parts, schema)
        if len(parts) > 1:
            table = table.combine_chunks().take(np.argsort(np.concatenate(order)))
        return table

    def vectors(self, name: str, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows of a vector column as float32 [n, D], in the order of `positions`."""
        which = self._batch_of(positions)
        if len(self.batches) == 1:
            return self._matrix(name, 0)[positions]
        dim = self.schema.field(name).type.list_size
        result = np.empty((len(positions), dim), np.float32)
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            result[here] = self._matrix(name, int(number))[positions[here] - self._starts[number]]
        return result

    def _matrix(self, name: str, number: int) -> NDArray[np.float32]:
        """One batch's vectors, a view of its memory, made once."""
        key = (name, number)
        if key not in self._vectors:
            column: Any = self.batches[number].column(name)
            self._vectors[key] = vectors_of(column, column.type.list_size)
        return self._vectors[key]

    def _batch_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts, positions, side="right") - 1


def _indices(positions: NDArray[np.int64]) -> pa.Array:
    """pa.array(positions), which would import numpy.ma (10 ms) to see whether they are masked."""
    buffer = pa.py_buffer(np.ascontiguousarray(positions))
    return pa.Array.from_buffers(pa.int64(), len(positions), [None, buffer])
