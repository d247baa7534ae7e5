"""What writing the derived files needs must not grow with the collection, but for bytes a row."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prolip_search.indexes import ivf_index
from prolip_search.indexes.ivf_index import AugmentedRows, write_ivf
from prolip_search.indexes.mapped_rows import write_rows
from prolip_search.indexes.rows import MemoryRows, rows_schema
from prolip_search.indexes.schema import checked_rows
from tests.conftest import make_gaussians
from tests.indexes.building import items

DIM = 64
BYTES_PER_ROW = 64  # docs/indexing.md says so


class Foreign:
    """A batch from another library: whoever keeps one column of it keeps all of its memory."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def __arrow_c_array__(self, requested_schema: object = None) -> Any:
        return self._batch.__arrow_c_array__(requested_schema)


def rows(n: int) -> pa.Table:
    table = checked_rows(items(make_gaussians(n, DIM, 1)), DIM)
    table = table.add_column(0, "row_id", pa.array(range(n), pa.int64()))
    return table.select(rows_schema(DIM).names)


def peak_of_writing_rows(folder: Path, n_batches: int) -> int:
    table = rows(2048).combine_chunks()
    at_rest, most = pa.total_allocated_bytes(), 0

    def stream() -> Iterator[pa.RecordBatch]:
        nonlocal most
        for _ in range(n_batches):
            copy = table.take(np.arange(len(table))).combine_chunks().to_batches()[0]
            most = max(most, pa.total_allocated_bytes() - at_rest)
            yield pa.record_batch(Foreign(copy))

    folder.mkdir()
    write_rows(folder / "csd-1.vectors", folder / "csd-1.arrow", stream(), DIM)
    return most


def test_rows_are_let_go_once_they_are_written(tmp_path: Path) -> None:
    few = peak_of_writing_rows(tmp_path / "few", 4)
    many = peak_of_writing_rows(tmp_path / "many", 24)
    assert few > 2048 * DIM * 8  # a batch at least, or nothing was measured
    assert many - few < 20 * 2048 * BYTES_PER_ROW


def test_inverted_lists_are_made_from_a_bounded_sample_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ivf_index, "LARGEST_SAMPLE", 1024)
    monkeypatch.setattr(ivf_index, "BLOCK_ROWS", 256)
    peaks = {}
    for n in (2_000, 12_000):
        stored = AugmentedRows(MemoryRows(rows(n)), DIM)
        tracemalloc.start()
        write_ivf(tmp_path / f"csd-{n}.ivf", stored)
        peaks[n] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[2_000] > 1024 * DIM * 4  # the sample at least, or nothing was measured
    assert peaks[12_000] - peaks[2_000] < 10_000 * BYTES_PER_ROW
