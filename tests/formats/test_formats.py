"""Stores that older versions wrote, one folder per format version: they must open for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from prolip_search.distances import MatchLogit
from prolip_search.indexes.schema import ADDED
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import FINGERPRINT, hit_ids, items

V1 = Path(__file__).parent / "v1" / "index"
IMAGES = [f"item-{number}" for number in range(8) if number != 3] + ["late-0", "late-1"]


@pytest.fixture
def v1(tmp_path: Path) -> Store:
    shutil.copytree(V1, tmp_path / INDEX_FOLDER)
    return Store.open(tmp_path / INDEX_FOLDER)


def stored_as(name: str) -> int:
    """The row of make_gaussians(12, 8, 1) that an item was made from."""
    kind, number = name.split("-")
    return int(number) + {"item": 0, "text": 8, "late": 10}[kind]


def test_a_store_of_version_1_says_what_it_was_made_with(v1: Store) -> None:
    assert v1.encoder.name == "mini"
    assert v1.encoder.fingerprint == FINGERPRINT
    assert v1.encoder.dim == 8
    assert v1.encoder.match_logit == MatchLogit(scale=10.0, bias=-5.0)
    assert v1.encoder.revision is None


def test_a_store_of_version_1_holds_its_items(v1: Store) -> None:
    table = v1.table(["id", "kind", "path", "text", "width"]).sort_by("id")
    assert table["id"].to_pylist() == sorted([*IMAGES, "text-0", "text-1"])
    assert v1.row_of("item-3") is None
    assert v1.row_of_path("it's\nmoved/5.jpg") == v1.row_of("item-5")
    row = v1.rows([v1.row_of("text-1")], ["kind", "text"]).to_pylist()
    assert row == [{"kind": "text", "text": "caption 1"}]
    assert v1.skipped()["reason"].to_pylist() == ["truncated"]
    source = make_gaussians(12, 8, 1)
    names = table["id"].to_pylist()
    read = v1.gaussians([v1.row_of(name) for name in names])
    rows = np.array([stored_as(name) for name in names])
    np.testing.assert_allclose(read.mean, source.mean[rows], atol=1e-6)
    np.testing.assert_allclose(read.log_variance, source.log_variance[rows], rtol=1e-6)


@pytest.mark.parametrize("refreshed", [False, True])
def test_a_store_of_version_1_is_searched(v1: Store, refreshed: bool) -> None:
    assert v1.derived_state == "behind"
    if refreshed:
        v1.refresh_index()
        assert v1.derived_state == "current"
    source, queries = make_gaussians(12, 8, 1), make_gaussians(3, 8, 2)
    rows = np.array([stored_as(name) for name in IMAGES])
    csd = np.square(queries.mean[:, None] - source.mean[rows]).sum(-1) + source.uncertainty[rows]
    assert hit_ids(v1, queries, 20) == [[IMAGES[at] for at in row] for row in csd.argsort(1)]


def test_a_store_of_version_1_takes_new_items(v1: Store) -> None:
    v1.append(items(make_gaussians(1, 8, 3), ids=["new"]))
    v1.move(pa.table({"id": ["item-1"], "path": ["elsewhere"], "mtime_ns": [1]}))
    assert v1.delete(["item-0"]) == 1
    v1.refresh_index()
    opened = Store.open(v1.folder)
    assert opened.count() == 11
    assert opened.row_of_path("elsewhere") == opened.row_of("item-1")


def test_columns_that_came_later_are_null_and_join_with_the_first_new_item(v1: Store) -> None:
    columns = ["id", "path", *ADDED]
    before = v1.table(columns).sort_by("id")
    for name in ADDED:
        assert before[name].null_count == len(before)
    v1.move(pa.table({"id": ["item-1"], "path": ["album/1.jpg"], "mtime_ns": [1]}))
    new = items(make_gaussians(1, 8, 3), ids=["new"], camera_make=["Canon"], latitude=[45.5])
    v1.append(new)
    expected = dict.fromkeys(ADDED) | {"folder": "", "camera_make": "Canon", "latitude": 45.5}
    for _ in range(2):
        row = v1.rows([v1.row_of("new")], ADDED).to_pylist()
        assert row == [expected]
        after = v1.table(columns).filter(pc.not_equal(v1.table(["id"])["id"], "new"))
        assert after.drop_columns("path").sort_by("id") == before.drop_columns("path")
        v1.refresh_index()
    v1.move(pa.table({"id": ["item-1"], "path": ["album/2.jpg"], "mtime_ns": [2]}))
    assert v1.rows([v1.row_of("item-1")], ["folder"]).to_pylist() == [{"folder": "album"}]


def test_the_derived_files_of_version_1_are_read_and_not_only_rebuilt(v1: Store) -> None:
    """Without the later commits they are current, and a query needs nothing else."""
    table = v1.folder / f"items-{FINGERPRINT[:8]}.lance"
    newest = sorted((table / "_versions").glob("*.manifest"))[0]
    newest.unlink()
    (table / "_versions" / "latest_version_hint.json").unlink(missing_ok=True)
    shutil.rmtree(table / "data")
    opened = Store.open(v1.folder)
    assert opened.derived_state == "current"
    assert opened.count("image") == 7
