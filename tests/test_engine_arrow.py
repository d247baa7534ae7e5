"""Ready Gaussians in, arrays out: the engine for collections of millions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from prolip_search import streams
from prolip_search.engine import SearchEngine
from prolip_search.errors import DimensionMismatch, InvalidGaussians, QueryError
from prolip_search.testing import FakeEncoder
from tests.conftest import make_gaussians
from tests.indexes.building import items

DIM = 8


@pytest.fixture
def engine(tmp_path: Path) -> SearchEngine:
    return SearchEngine.create(tmp_path / ".prolip-search", encoder=FakeEncoder())


def stream(n: int, batch: int) -> Iterator[pa.RecordBatch]:
    table = items(make_gaussians(n, DIM, 0)).select(["id", "path", "mean", "log_variance"])
    yield from table.to_batches(max_chunksize=batch)


@pytest.mark.parametrize("batch", [1, 37, 1000])
def test_a_stream_of_gaussians_is_added_and_searched(
    engine: SearchEngine, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "COMMIT_ROWS", 100)
    seen = []
    assert engine.add_gaussians(stream(250, batch), progress=lambda n, _: seen.append(n)) == 250
    assert seen[-1] == 250
    assert len(seen) >= 3
    opened = SearchEngine.open(engine.store.folder, encoder=FakeEncoder())
    assert opened.store.derived_state == "current"
    assert opened.status().n_images == 250


def test_many_gaussians_are_searched_into_arrays(engine: SearchEngine) -> None:
    stored, queries = make_gaussians(300, DIM, 0), make_gaussians(70, DIM, 1)
    engine.add_gaussians(pa.Table.from_batches(stream(300, 300)))
    hits = engine.search_many(queries, 5)
    assert hits.row_id.shape == hits.csd.shape == (70, 5)
    delta = np.square(queries.mean[:, None] - stored.mean).sum(-1)
    truth = delta + queries.uncertainty[:, None] + stored.uncertainty
    best = truth.argsort(1)[:, :5]
    names = engine.reader().rows(hits.row_id.ravel(), ["id"])["id"].to_pylist()
    assert names == [f"item-{at}" for at in best.ravel()]
    np.testing.assert_allclose(hits.csd, np.take_along_axis(truth, best, 1), rtol=1e-5)
    assert (engine.search_many(queries[:2], 400).row_id[:, 300:] == -1).all()


def test_a_broken_stream_leaves_its_beginning(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "COMMIT_ROWS", 50)

    def breaks_off() -> Iterator[pa.RecordBatch]:
        yield from stream(120, 40)
        raise RuntimeError("the file ended")

    with pytest.raises(RuntimeError, match="the file ended"):
        engine.add_gaussians(breaks_off())
    assert engine.status().n_images >= 50


def test_what_are_no_gaussians_of_this_encoder_is_refused(engine: SearchEngine) -> None:
    good = items(make_gaussians(3, DIM, 0))
    for rows, error in [
        (items(make_gaussians(3, DIM + 1, 0)), DimensionMismatch),
        (good.drop_columns("mean"), QueryError),
        (good.set_column(good.column_names.index("mean"), "mean", good["log_variance"]),
         InvalidGaussians),
        (pa.concat_tables([good, good]), QueryError),
    ]:  # fmt: skip
        with pytest.raises(error):
            engine.add_gaussians(rows)
    unlike = [*good.to_batches(), *good.drop_columns("path").to_batches()]
    with pytest.raises(QueryError, match="same columns"):
        engine.add_gaussians(unlike)
    assert engine.status().n_images == 0


def test_the_kind_of_index_and_its_recall_are_chosen(tmp_path: Path) -> None:
    engine = SearchEngine.create(
        tmp_path / ".prolip-search", encoder=FakeEncoder(), index_kind="ivf", recall=0.9
    )
    engine.add_gaussians(stream(500, 500))
    index = engine.status().to_dict()["index"]
    assert index["kind"] == "ivf"
    assert index["recall"] >= 0.9
    engine.configure_index(index_kind="flat")
    engine.optimize()
    assert engine.status().index.recall is None
    with pytest.raises(QueryError, match="auto, flat, ivf"):
        engine.configure_index(index_kind="magic")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(QueryError, match="recall"):
        engine.configure_index(recall=2.0)


def test_one_reader_serves_many_threads(engine: SearchEngine) -> None:
    engine.configure_index(index_kind="ivf")
    engine.add_gaussians(stream(600, 600))
    queries = make_gaussians(24, DIM, 1)
    expected = engine.search_many(queries, 5)
    reader = engine.reader()
    failures: list[str] = []

    def ask() -> None:
        for at in range(24):
            hits = reader.search(queries[at], 5)
            ids = reader.rows(hits.row_id[0], ["id"])["id"].to_pylist()
            if (hits.row_id[0] != expected.row_id[at]).any() or len(ids) != 5:
                failures.append(str(at))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
