"""Rows by position: of derived files or in memory, of which only what is asked for is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prolip_search.indexes.blocks import Floats, Ints
from prolip_search.indexes.schema import KINDS, items_schema, vectors_of

VECTORS = ("mean", "log_variance")


class RowSource(Protocol):
    """Rows 0…n−1 that lie in one place."""

    def __len__(self) -> int: ...

    @property
    def row_ids(self) -> Ints:
        """All row ids, [n]."""
        ...

    @property
    def kinds(self) -> NDArray[np.uint8]:
        """Which of schema.KINDS every row is, by number, [n]."""
        ...

    @property
    def kind_counts(self) -> Ints:
        """How many rows there are of each of schema.KINDS, and of none of them."""
        ...

    def row_ids_at(self, rows: Ints) -> Ints:
        """The row ids of some rows."""
        ...

    def rows_of(self, row_ids: Ints) -> Ints:
        """Where some row ids are; −1 for those that are not here."""
        ...

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        ...

    def take(self, rows: Ints, columns: Sequence[str]) -> pa.Table:
        """Some rows of some columns, in the order of `rows`."""
        ...

    def uncertainty(self, rows: Ints) -> Floats:
        """The uncertainties of some rows, [n]."""
        ...

    def vectors(self, name: str, rows: Ints) -> Floats:
        """Rows of a vector column, [n, D]."""
        ...


def rows_schema(dim: int) -> pa.Schema:
    """The columns of a row: `row_id`, then those of the items table."""
    return pa.schema([pa.field("row_id", pa.int64()), *items_schema(dim)])


def kind_numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.uint8]:
    """Kinds as numbers: their places in schema.KINDS, and one more for what is none of them."""
    numbers = pc.index_in(column, pa.array(KINDS, pa.string())).fill_null(len(KINDS))
    return numbers.to_numpy().astype(np.uint8)  # type: ignore[no-any-return]  # pyarrow


def count_kinds(kinds: NDArray[np.uint8]) -> Ints:
    """How many of each kind, and of none of them, [len(KINDS) + 1]."""
    return np.bincount(kinds, minlength=len(KINDS) + 1)


class RowFinder:
    """Row ids [n] in any order, and where each is; they are sorted once, when first asked."""

    def __init__(self, row_ids: Ints) -> None:
        self.row_ids = row_ids
        self._sorted: tuple[Ints, Ints | None] | None = None

    def rows_of(self, row_ids: Ints) -> Ints:
        """Where some row ids are; −1 for those that are not here."""
        if self._sorted is None:
            known, order = self.row_ids, None
            if (known[1:] < known[:-1]).any():
                order = np.argsort(known)
                known = known[order]
            self._sorted = known, order
        known, order = self._sorted
        if len(known) == 0:
            return np.full(len(row_ids), -1, np.int64)
        places = np.minimum(np.searchsorted(known, row_ids), len(known) - 1)
        found = places if order is None else order[places]
        return np.where(known[places] == row_ids, found, -1)


class MemoryRows:
    """The rows of a table, in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self._finder = RowFinder(table["row_id"].to_numpy())
        self._uncertainty: Floats = table["uncertainty"].to_numpy()
        self._kinds = kind_numbers(table["kind"])
        dim = table.schema.field("mean").type.list_size
        self._vectors = {name: vectors_of(self._table[name], dim) for name in VECTORS}

    def __len__(self) -> int:
        return len(self._table)

    @property
    def row_ids(self) -> Ints:
        return self._finder.row_ids

    @property
    def kinds(self) -> NDArray[np.uint8]:
        return self._kinds

    @property
    def kind_counts(self) -> Ints:
        return count_kinds(self._kinds)

    def row_ids_at(self, rows: Ints) -> Ints:
        return self.row_ids[rows]

    def rows_of(self, row_ids: Ints) -> Ints:
        return self._finder.rows_of(row_ids)

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return self._table[name]

    def take(self, rows: Ints, columns: Sequence[str]) -> pa.Table:
        """Some rows of some columns, in the order of `rows`."""
        return self._table.select(columns).take(indices(rows))

    def uncertainty(self, rows: Ints) -> Floats:
        """The uncertainties of some rows, [n]."""
        return self._uncertainty[rows]

    def vectors(self, name: str, rows: Ints) -> Floats:
        """Rows of a vector column, [n, D]."""
        return self._vectors[name][rows]


class Rows:
    """Positions 0…N−1: the rows of several sources, one source after the other."""

    def __init__(self, sources: Sequence[RowSource], schema: pa.Schema) -> None:
        self.schema = schema
        self.sources = [source for source in sources if len(source)]
        sizes = [len(source) for source in self.sources]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        chunks = [chunk for source in self.sources for chunk in source.column(name).chunks]
        return pa.chunked_array(chunks, self.schema.field(name).type)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some columns."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        return pa.Table.from_arrays([self.column(name) for name in columns], schema=schema)

    def take(self, positions: Ints, columns: Sequence[str]) -> pa.Table:
        """Some rows of some columns, in the order of `positions`."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        parts, order = [], []
        for number, here, rows in self._by_source(positions):
            parts.append(self.sources[number].take(rows, columns).cast(schema))
            order.append(here)
        if not parts:
            return schema.empty_table()
        if len(parts) == 1:
            return parts[0]
        table = pa.concat_tables(parts).combine_chunks()
        return table.take(indices(np.argsort(np.concatenate(order))))

    def vectors(self, name: str, positions: Ints) -> Floats:
        """Rows of a vector column as float32 [n, D], in the order of `positions`."""
        if len(self.sources) == 1:
            return self.sources[0].vectors(name, positions)
        dim = self.schema.field(name).type.list_size
        result = np.empty((len(positions), dim), np.float32)
        for number, here, rows in self._by_source(positions):
            result[here] = self.sources[number].vectors(name, rows)
        return result

    def row_ids(self, positions: Ints) -> Ints:
        """The row ids at some positions."""
        if len(self.sources) == 1:
            return self.sources[0].row_ids_at(positions)
        result = np.empty(len(positions), np.int64)
        for number, here, rows in self._by_source(positions):
            result[here] = self.sources[number].row_ids_at(rows)
        return result

    def uncertainty(self, positions: Ints) -> Floats:
        """The uncertainties at some positions."""
        if len(self.sources) == 1:
            return self.sources[0].uncertainty(positions)
        result = np.empty(len(positions), np.float32)
        for number, here, rows in self._by_source(positions):
            result[here] = self.sources[number].uncertainty(rows)
        return result

    def _by_source(self, positions: Ints) -> list[tuple[int, Ints, Ints]]:
        """Which source holds which of `positions`: its number, their places, its own rows."""
        which = np.searchsorted(self.starts, positions, side="right") - 1
        found = []
        for number in sorted(set(which.tolist())):
            here = np.flatnonzero(which == number)
            found.append((number, here, positions[here] - self.starts[number]))
        return found


def indices(positions: Ints) -> pa.Array:
    """pa.array(positions), which would import numpy.ma (10 ms) to see whether they are masked."""
    buffer = pa.py_buffer(np.ascontiguousarray(positions))
    return pa.Array.from_buffers(pa.int64(), len(positions), [None, buffer])
