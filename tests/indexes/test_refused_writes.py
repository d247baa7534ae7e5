"""Where the system refuses to write: one clear error, and the index as it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from prolip_search.errors import IndexNotWritable
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import filled_store, hit_ids, items, judged, new_store
from tests.ordinary_user import ordinary_user

CHECKOUT = Path(__file__).resolve().parents[2]

# The kernel refuses to let any file grow past a limit, which Lance, FAISS, Arrow and Python meet
# as they meet a full disk: a write that fails half way.
WRITE_UNDER_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
from prolip_search.errors import IndexNotWritable
from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import items

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
store = Store.open(sys.argv[1])
try:
    with store.writer():
        store.append(items(make_gaussians(400, 8, 1), ids=[f"new-{n}" for n in range(400)]))
        store.refresh_index()
except IndexNotWritable as error:
    print(error)
else:
    print("written")
"""


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Store]:
    """An index, behind by one commit, that nobody may write to."""
    store = filled_store(tmp_path)
    store.append(items(make_gaussians(1, 8, 1), ids=["late"]))
    folders = [store.folder, *(path for path in store.folder.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    (store.folder / "writer.lock").chmod(0o444)
    with ordinary_user():
        yield Store.open(store.folder)
    for folder in folders:
        folder.chmod(0o755)


def test_a_read_only_index_answers_and_stays_as_it_is(read_only: Store) -> None:
    before = sorted(path.name for path in read_only.folder.rglob("*"))
    assert read_only.derived_state == "behind"
    query = read_only.gaussians([read_only.row_of("late")])
    assert hit_ids(read_only, query, 1) == [["late"]]
    assert read_only.count() == len(read_only.files()) == 21
    assert sorted(path.name for path in read_only.folder.rglob("*")) == before


def test_a_read_only_index_remembers_nothing_and_says_nothing(read_only: Store) -> None:
    assert not read_only.history.record({"query": "a dog"})
    assert read_only.history.read() == []


def test_every_write_to_a_read_only_index_is_one_clear_error(read_only: Store) -> None:
    skipped = pa.table({"path": ["x"], "reason": ["empty"]})
    for write in (
        lambda: read_only.append(items(make_gaussians(1, 8, 2), ids=["x"])),
        lambda: read_only.delete(["item-1"]),
        lambda: read_only.move(pa.table({"id": ["item-1"], "path": ["x"], "mtime_ns": [1]})),
        lambda: read_only.refresh_index(),
        lambda: read_only.record_skipped(skipped),
        lambda: read_only.record_judgements(judged(["item-1"])),
        lambda: read_only.set_calibration({"w": [1.0]}),
    ):
        with pytest.raises(IndexNotWritable, match=r"Searching it still works.*writable"):
            write()


def test_a_folder_where_no_index_can_be_made_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with ordinary_user(), pytest.raises(IndexNotWritable, match="writable"):
        new_store(tmp_path)
    tmp_path.chmod(0o755)


def test_a_file_in_the_place_of_the_index_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / INDEX_FOLDER).touch()
    with pytest.raises(IndexNotWritable, match="File exists"):
        new_store(tmp_path)


def test_a_disk_that_fills_at_any_point_leaves_the_old_state_and_one_clear_error(
    tmp_path: Path,
) -> None:
    filled_store(tmp_path / "pristine", n=3)
    queries = make_gaussians(2, 8, 5)
    answers = set()
    for limit in (0, 40, 300, 600, 1500, 5_000, 20_000, 60_000, 10_000_000):
        shutil.copytree(tmp_path / "pristine", tmp_path / str(limit))
        folder = tmp_path / str(limit) / INDEX_FOLDER
        command = [sys.executable, "-c", WRITE_UNDER_A_LIMIT, str(folder), str(limit)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=True)
        written = ended.stdout == "written\n"
        answers.add(written)
        if not written:
            assert "Make room" in ended.stdout, ended.stdout
            assert "Traceback" not in ended.stderr
        store = Store.open(folder)
        assert store.count() in ({403} if written else {3, 403})
        before = hit_ids(store, queries, 403)
        # and when there is room again, the next writer tidies up and goes on
        store.append(items(make_gaussians(1, 8, 6), ids=["afterwards"]))
        store.refresh_index()
        after = hit_ids(Store.open(folder), queries, 404)
        assert [[name for name in row if name != "afterwards"] for row in after] == before
        assert len(list(folder.glob("csd*"))) == 5
        assert np.isfinite(store.search(queries, 404).csd).sum() == 2 * store.count()
    assert answers == {False, True}
