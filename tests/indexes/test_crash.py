"""kill -9 between any two steps leaves the state before a commit or the state after it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from prolip_search.errors import IndexNotFound
from prolip_search.indexes.durable import TEMPORARY_SUFFIX
from prolip_search.indexes.manifest import items_table_name
from prolip_search.indexes.store import INDEX_FOLDER, Store
from prolip_search.testing import FakeEncoder
from prolip_search.verification import verify_index
from tests.conftest import make_gaussians
from tests.indexes import crashing
from tests.indexes.building import FINGERPRINT, filled_store, hit_ids, items, judged, record
from tests.indexes.programs import running

N_STEPS = 20  # of each job, spread over all that it takes

Order = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def give_order() -> Iterator[Order]:
    with running("tests.indexes.crashing") as program:
        yield program.ask


OLD = {f"item-{n}": f"item-{n}.jpg" for n in range(20)}
APPENDED = OLD | {f"new-{n}": f"new-{n}.jpg" for n in range(6)}
DELETED = {name: path for name, path in OLD.items() if name not in ("item-0", "item-1")}
MOVED = DELETED | {"item-2": "moved.jpg"}
JUDGED = {name: path for name, path in OLD.items() if name != "item-0"}
REBUILT = {f"other-{n}": f"other-{n}.jpg" for n in range(3)}

DERIVED_FILES = ("vectors", "rows", "index", "reference")

# The states that a job goes through, one after each commit.
STATES: dict[str, list[dict[str, str]]] = {
    "append": [OLD, APPENDED],
    "change": [OLD, DELETED, MOVED],
    "create": [OLD],
    "rebuild": [OLD, REBUILT],
    "optimize": [OLD],
    "use_lists": [OLD],
    "grow_a_tail": [OLD, APPENDED],
    "judge": [OLD, JUDGED],
}
# Of the same job: the items that are judged, and what is fitted.
JUDGEMENTS = [["item-0"], ["item-0", "item-1", "item-2"], ["item-1", "item-2"]]
FITTED = [None, {"n_judged": 2}]


def state_of(store: Store) -> dict[str, str]:
    table = store.table(["id", "path"])
    assert len(table) == store.count()
    return dict(zip(table["id"].to_pylist(), table["path"].to_pylist(), strict=True))


def assert_ranks_right(store: Store) -> None:
    """The nearest of each item's own Gaussian is that item, in a search that finds them all."""
    ids = sorted(state_of(store))
    rows = [store.row_of(name) for name in ids]
    found = hit_ids(store, store.gaussians(rows), len(ids), rank_by="cosine")
    assert [row[0] for row in found] == ids
    assert all(sorted(row) == ids for row in found)


def assert_whole_and_usable(folder: Path, job: str) -> None:
    """An old state or a new one, right answers, and the same job can be done again."""
    store = Store.open(folder)
    checked = verify_index(folder, lambda store: FakeEncoder())
    assert {finding.part for finding in checked.findings} <= {"file"}  # there are no photos here
    assert state_of(store) in STATES[job]
    assert_ranks_right(store)
    if job == "judge":
        assert store.judgements()["item_id"].to_pylist() in JUDGEMENTS
        assert store.manifest.calibration in FITTED
    if job == "create":
        crashed = folder.parent / "new" / INDEX_FOLDER
        try:
            assert Store.open(crashed).count() == 0
        except IndexNotFound:
            Store.create(crashed, encoder=record())
        store = Store.open(crashed)
        store.append(items(make_gaussians(2, 8, 3)))
        store.refresh_index()
        assert_ranks_right(store)
    elif job == "rebuild":
        crashing.rebuild(folder)
        store = Store.open(folder)
        assert state_of(store) == REBUILT
        assert_ranks_right(store)
        assert (store.unfinished_rebuilds(), store.leftovers()) == ([], [])
    else:
        store.delete([name for name in APPENDED if name.startswith("new")])
        crashing.JOBS[job](folder)
        assert state_of(Store.open(folder)) == STATES[job][-1]
        assert_ranks_right(Store.open(folder))
    assert not list(folder.glob(f"*{TEMPORARY_SUFFIX}"))
    assert_no_file_is_left_over(folder)


def assert_no_file_is_left_over(folder: Path) -> None:
    pointer = json.loads((folder / "csd.json").read_text())
    named = {part[kind]["file"] for part in pointer["parts"] for kind in DERIVED_FILES}
    named |= {pointer["dead"]["file"]} if pointer["dead"] else set()
    assert {path.name for path in folder.glob("csd*")} == {"csd.json", *named}


@pytest.mark.parametrize("job", list(crashing.JOBS))
def test_a_kill_at_any_step_leaves_an_old_or_a_new_state(
    give_order: Order, tmp_path: Path, job: str
) -> None:
    pristine = filled_store(tmp_path / "pristine")
    if job == "optimize":  # something to join and to drop
        pristine.append(items(make_gaussians(2, 8, 5), ids=["x", "y"]))
        pristine.delete(["x", "y"])
    if job == "judge":
        pristine.record_judgements(judged(["item-0"]))

    def fresh(name: str) -> Path:
        shutil.copytree(tmp_path / "pristine", tmp_path / name)
        return tmp_path / name / INDEX_FOLDER

    whole = give_order(folder=fresh("whole"), job=job)
    assert whole["status"] == 0
    assert whole["n_steps"] > N_STEPS
    steps = np.linspace(1, whole["n_steps"], N_STEPS).astype(int).tolist()
    assert steps[-1] == whole["n_steps"]
    for step in steps:
        folder = fresh(f"step-{step}")
        answer = give_order(folder=folder, job=job, step=step)
        assert answer["status"] == -9, step
        assert_whole_and_usable(folder, job)


def test_what_a_killed_append_leaves_behind_is_removed_by_the_next_writer(
    give_order: Order, tmp_path: Path
) -> None:
    store = filled_store(tmp_path)
    data = store.folder / items_table_name(FINGERPRINT) / "data"
    before = set(data.iterdir())
    (data / "0123456789.lance").write_bytes(b"an orphan")
    (data / "0123456789.lance#1").write_bytes(b"half an orphan")
    (store.folder / "csd-99.faiss.writing").write_bytes(b"half an index")
    (store.folder / "csd-98.arrow").write_bytes(b"rows that csd.json does not name")
    shutil.copytree(store.folder, tmp_path / "copy" / INDEX_FOLDER)
    whole = give_order(folder=tmp_path / "copy" / INDEX_FOLDER, job="append")
    halfway = whole["n_steps"] // 2
    killed = give_order(folder=store.folder, job="append", step=halfway)
    assert killed["status"] == -9
    assert (store.folder / "writer.lock").read_text() != ""
    assert len(set(data.iterdir()) - before) >= 2  # a reader leaves everything as it is
    with Store.open(store.folder).writer():
        pass
    fragments = lance.dataset(str(data.parent)).get_fragments()
    assert {path.name for path in data.iterdir()} == {
        Path(file.path).name for fragment in fragments for file in fragment.data_files()
    }
    assert len(list(store.folder.glob("csd*"))) == 5
    assert not list(store.folder.glob(f"*{TEMPORARY_SUFFIX}"))
    assert (store.folder / "writer.lock").read_text() == ""
