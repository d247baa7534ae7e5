"""Rows of derived files: found by row id, and checked batch by batch as they are touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from prolip_search.indexes import mapped_rows
from prolip_search.indexes.blocks import DerivedDamage
from prolip_search.indexes.mapped_rows import MappedRows, write_rows
from prolip_search.indexes.rows import MemoryRows, rows_schema
from prolip_search.indexes.schema import checked_rows
from tests.conftest import make_gaussians
from tests.indexes.building import items

DIM, N = 8, 150
VECTORS = "csd-1.vectors"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_rows, "ROWS_PER_BATCH", 32)
    monkeypatch.setattr(mapped_rows, "BLOCK_BYTES", 256)


def written(folder: Path, row_ids: np.ndarray[Any, Any]) -> tuple[pa.Table, dict[str, Any]]:
    kinds = ["text" if number % 5 == 0 else "image" for number in range(len(row_ids))]
    table = items(make_gaussians(len(row_ids), DIM, 1))
    at = table.column_names.index("kind")
    table = checked_rows(table.set_column(at, "kind", pa.array(kinds, pa.string())), DIM)
    table = table.add_column(0, "row_id", pa.array(row_ids, pa.int64()))
    table = table.select(rows_schema(DIM).names)
    facts = write_rows(folder / VECTORS, folder / "csd-1.arrow", table.to_batches(), DIM)
    return table, facts


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("n", [1, 32, N])
def test_row_ids_are_found_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, ascending: bool, n: int
) -> None:
    monkeypatch.setattr(mapped_rows, "FEW", few)
    row_ids = 3 * np.arange(n) + 5
    if not ascending:
        row_ids = np.random.default_rng(0).permutation(row_ids)
    table, facts = written(tmp_path, row_ids)
    asked = np.array([*row_ids[::-1], 0, 4, 6, 3 * N + 5, 1 << 40])
    expected = [*range(n)[::-1], -1, -1, -1, -1, -1]
    for source in (MappedRows(tmp_path, facts, DIM), MemoryRows(table)):
        assert source.rows_of(asked).tolist() == expected
        assert source.row_ids.tolist() == row_ids.tolist()
        some = np.arange(n)[::7]
        assert source.row_ids_at(some).tolist() == row_ids[some].tolist()
        assert source.kind_counts.tolist() == [n - len(range(0, n, 5)), len(range(0, n, 5)), 0]
        assert source.kinds.tolist() == [1 if number % 5 == 0 else 0 for number in range(n)]


def test_damage_in_row_ids_or_kinds_is_met_by_who_touches_that_batch(tmp_path: Path) -> None:
    row_ids = np.arange(N)
    _, facts = written(tmp_path, row_ids)
    path = tmp_path / VECTORS
    content = path.read_bytes()
    ids = content.index(row_ids.astype("<i8").tobytes())
    for at in (ids + 8 * 40 + 1, ids + 8 * N + 40):  # a row id and a kind of the second batch
        damaged = bytearray(content)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        rows = MappedRows(tmp_path, facts, DIM)
        assert rows.rows_of(np.array([3, 149])).tolist() == [3, 149]
        for touch in (
            lambda rows=rows: rows.rows_of(np.array([3, 50])),
            lambda rows=rows: rows.row_ids_at(np.array([63])),
            lambda rows=rows: rows.kinds,
            lambda rows=rows: rows.row_ids,
            lambda rows=rows: rows.check_all(),
        ):
            with pytest.raises(DerivedDamage):
                touch()


def test_every_flipped_bit_that_is_used_is_found(tmp_path: Path) -> None:
    _, facts = written(tmp_path, np.arange(N))
    path = tmp_path / VECTORS
    content = path.read_bytes()
    begin = 8 * DIM * N  # all that comes after the vectors
    unused = set()
    for at in range(begin, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        try:
            MappedRows(tmp_path, facts, DIM).check_all()
        except DerivedDamage:
            continue
        unused.add(at)
    assert len(unused) < 16  # zeros that fill up to a multiple of 8
    assert all(content[at] == 0 for at in unused)
