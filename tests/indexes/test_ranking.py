"""The ranking against brute force in float64, which it must equal, ties and all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prolip_search.distances import Arrays, membership
from prolip_search.gaussians import Gaussians
from prolip_search.indexes import csd_index, ranking
from prolip_search.indexes.ranking import search_view
from prolip_search.indexes.rows import MemoryRows, Rows, RowSource, rows_schema
from prolip_search.indexes.schema import checked_rows
from prolip_search.indexes.snapshot import build_index
from prolip_search.indexes.store import Store
from prolip_search.indexes.view import IndexPart, View
from tests.conftest import make_gaussians
from tests.indexes.building import hit_ids, items, new_store
from tests.strategies import gaussians

RANKINGS = ("csd", "cosine", "membership")
# Everything in a collection as unlikely as it may be, down to wholly equal items.
VARIANCES = st.sampled_from([(-12.0, -8.0), (-6.0, 0.0), (-30.0, 15.0)])


def brute_force(
    queries: Gaussians, stored: Gaussians, ids: list[str], rank_by: str
) -> list[list[str]]:
    """All ids for every query, nearest first, equal ones by id; float64 throughout."""
    ranked = []
    for row in range(len(queries)):
        q = queries.mean[row].astype(np.float64)
        mean = stored.mean.astype(np.float64)
        if rank_by == "csd":
            delta = mean - q
            u = stored.uncertainty.astype(np.float64) + np.float64(queries.uncertainty[row])
            key = (delta * delta).sum(-1) + u
        elif rank_by == "cosine":
            key = -(mean * q).sum(-1)
        else:
            wide = [Arrays(*(a.astype(np.float64) for a in (g.mean, g.log_variance)))
                    for g in (stored, queries[row])]  # fmt: skip
            key = -membership(*wide)[:, 0]
        ranked.append(
            [ids[at] for at in sorted(range(len(ids)), key=lambda at: (key[at], ids[at]))]
        )
    return ranked


def view_of(stored: Gaussians, ids: list[str], *, split: int, dead: set[str]) -> View:
    """A view as the store makes it: rows before `split` in the files, the others written since."""
    rows = checked_rows(items(stored, ids=ids), stored.dim)
    rows = rows.add_column(0, "row_id", pa.array(range(100, 100 + len(rows)), pa.int64()))
    sources: list[RowSource] = []
    parts = []
    for start, part in ((0, rows.slice(0, split)), (split, rows.slice(split))):
        if len(part):
            sources.append(MemoryRows(part))
            parts.append(IndexPart(start, build_index(part, stored.dim)))
    alive = np.array([name not in dead for name in ids], np.bool_) if dead else None
    return View(
        stamp=None,
        derived="behind",
        rows=Rows(sources, rows_schema(stored.dim)),
        alive=alive,
        parts=parts,
    )


def found_ids(view: View, queries: Gaussians, k: int, **options: Any) -> list[list[str]]:
    options = {"kinds": ("image",), "rank_by": "csd", "offset": 0} | options
    hits = search_view(view, queries, k, dim=queries.dim, **options)
    rows = [view.positions(row[row >= 0]) for row in hits.row_id]
    return [view.rows.take(row, ["id"])["id"].to_pylist() for row in rows]


@st.composite
def collections(draw: st.DrawFn) -> tuple[Gaussians, list[str], Gaussians, int, set[str]]:
    """Items (many of them equal), their ids in any order, queries, a split, and deleted ids."""
    variances = draw(VARIANCES)
    dim = st.just(draw(st.integers(1, 17)))
    distinct = draw(gaussians(n=st.integers(1, 12), dim=dim, log_variance=variances))
    picks = draw(st.lists(st.integers(0, len(distinct) - 1), min_size=1, max_size=80))
    ids = draw(st.permutations([f"id-{number:02}" for number in range(len(picks))]))
    queries = draw(gaussians(n=st.integers(1, 3), dim=dim, log_variance=variances))
    dead = set(draw(st.lists(st.sampled_from(ids), max_size=5)))
    return distinct[np.array(picks)], ids, queries, draw(st.integers(0, len(picks))), dead


@settings(deadline=None, max_examples=150)
@given(collections(), st.sampled_from(RANKINGS), st.integers(1, 30), st.integers(0, 10))
def test_every_ranking_equals_brute_force_ties_included(
    collection: tuple[Gaussians, list[str], Gaussians, int, set[str]],
    rank_by: str,
    k: int,
    offset: int,
) -> None:
    stored, ids, queries, split, dead = collection
    view = view_of(stored, ids, split=split, dead=dead)
    expected = [
        [name for name in row if name not in dead][offset : offset + k]
        for row in brute_force(queries, stored, ids, rank_by)
    ]
    assert found_ids(view, queries, k, rank_by=rank_by, offset=offset) == expected


@settings(deadline=None, max_examples=15)
@given(collections(), st.sampled_from(RANKINGS), st.randoms(use_true_random=False))
def test_neither_the_order_of_insertion_nor_batches_nor_files_change_the_ranking(
    collection: tuple[Gaussians, list[str], Gaussians, int, set[str]],
    rank_by: str,
    random: Any,
) -> None:
    stored, ids, queries, split, _ = collection
    order = list(range(len(ids)))
    random.shuffle(order)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = new_store(Path(one), stored.dim)
        first.append(items(stored, ids=ids))
        second = new_store(Path(other), stored.dim)
        rows = items(stored, ids=ids).take(order)
        second.append(rows.slice(0, split))
        second.refresh_index()
        second.append(rows.slice(split))
        expected = hit_ids(first, queries, 20, rank_by=rank_by)
        assert hit_ids(second, queries, 20, rank_by=rank_by) == expected
        for _ in range(2):  # once more changes nothing
            second.refresh_index()
            opened = Store.open(second.folder)
            assert opened.derived_state == "current"
            assert hit_ids(opened, queries, 20, rank_by=rank_by) == expected


@pytest.mark.parametrize("spread", [(-12, -8), (-3, 0.7)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_batch_of_queries_finds_what_each_finds_alone(
    spread: tuple[float, float], n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csd_index, "SMALL_JOB", 1)
    monkeypatch.setattr(csd_index, "_ALL_THREADS", n_threads)
    stored = make_gaussians(3000, 33, 0, spread=spread)
    queries = make_gaussians(40, 33, 1, spread=spread)
    ids = [f"{number:05}" for number in range(3000)]
    view = view_of(stored, ids, split=2900, dead={"00001"})
    together = search_view(view, queries, 10, dim=33, kinds=("image",), rank_by="csd", offset=0)
    for row in range(len(queries)):
        alone = search_view(
            view, queries[row], 10, dim=33, kinds=("image",), rank_by="csd", offset=0
        )
        np.testing.assert_array_equal(alone.row_id[0], together.row_id[row])
        np.testing.assert_array_equal(alone.csd[0], together.csd[row])


def test_items_nearer_to_each_other_than_float32_can_tell_are_ranked_right() -> None:
    """More of them than are fetched at first, so the proof must fail and ask for more."""
    n, dim = 400, 16
    query = make_gaussians(1, dim, 0)
    rng = np.random.default_rng(1)
    raw = query.mean.astype(np.float64) + rng.normal(size=(n, dim)) * 3e-7
    stored = Gaussians.from_raw(raw, np.full((n, dim), -9.0))
    ids = [f"{number:03}" for number in rng.permutation(n)]
    view = view_of(stored, ids, split=n, dead=set())
    assert n > 3 + ranking.MARGIN
    assert found_ids(view, query, 3) == [brute_force(query, stored, ids, "csd")[0][:3]]


def test_the_distance_that_is_given_is_the_csd_whatever_ranks() -> None:
    stored, query = make_gaussians(50, 8, 0), make_gaussians(1, 8, 1)
    view = view_of(stored, [f"{n:02}" for n in range(50)], split=50, dead=set())
    truth = np.square(query.mean - stored.mean).sum(1) + query.uncertainty + stored.uncertainty
    for rank_by in RANKINGS:
        hits = search_view(
            view, query, 50, dim=8, kinds=("image",), rank_by=rank_by, offset=0  # type: ignore[arg-type]  # a literal
        )  # fmt: skip
        np.testing.assert_allclose(hits.csd[0], truth[hits.row_id[0] - 100], rtol=1e-5)
        if rank_by == "csd":
            assert (np.diff(hits.csd[0]) >= 0).all()
