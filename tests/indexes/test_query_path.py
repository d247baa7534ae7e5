"""What a plain query costs: which libraries it may load, and many readers beside one writer."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import filled_store, items

QUERY = """
import sys
import numpy as np
from prolip_search.gaussians import Gaussians
from prolip_search.indexes.store import Store
store = Store.open(sys.argv[1])
query = Gaussians.from_raw(np.ones((1, 8)), np.zeros((1, 8)))
hits = store.search(query, 5)
shown = store.rows(hits.row_id[0], ["id", "kind", "path", "uncertainty", "metadata"])
assert len(shown) == len(store.gaussians(hits.row_id[0])) == 5
assert store.row_of("item-1") is not None
loaded = {"lance", "lancedb", "torch", "pandas", "numpy.ma"} & set(sys.modules)
print(store.derived_state, sorted(loaded))
"""


def query_in_a_fresh_process(store: Store, query: str = QUERY) -> str:
    command = [sys.executable, "-c", query, str(store.folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_a_query_of_an_up_to_date_index_loads_no_lance(tmp_path: Path) -> None:
    assert query_in_a_fresh_process(filled_store(tmp_path)) == "current []"


def test_a_filter_loads_lance_only_for_sql(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    filtered = "from prolip_search.indexes.filters import Filter\n" + QUERY
    shorthand = "store.search(query, 5, where=Filter(folder='.', before='9999'))"
    by_hand = filtered.replace("store.search(query, 5)", "(" + shorthand + ", HITS)[1]")
    by_hand = by_hand.replace("HITS", "store.search(query, 5)")
    assert query_in_a_fresh_process(store, by_hand) == "current []"
    by_sql = by_hand.replace("before='9999'", "where='true'")
    assert query_in_a_fresh_process(store, by_sql).startswith("current ['lance'")


def test_a_query_of_an_index_that_is_behind_loads_lance_and_no_more(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    store.delete(["item-0"])
    assert query_in_a_fresh_process(store).startswith("behind ['lance'")


def test_readers_beside_a_writer_see_whole_versions_only(tmp_path: Path) -> None:
    """The writer always adds and drops a pair; no reader may ever see one of the two."""
    store = filled_store(tmp_path, n=4)
    pairs = make_gaussians(2, 8, 1)
    done = threading.Event()
    failures: list[str] = []
    n_seen = [0, 0, 0]

    def read(number: int) -> None:
        while not done.is_set():
            reader = Store.open(store.folder)
            hits = reader.search(pairs, 100)
            ids = reader.rows(hits.row_id[0][hits.row_id[0] >= 0], ["id"])["id"].to_pylist()
            of_pairs = [name for name in ids if name.startswith("pair")]
            if len(of_pairs) % 2 or reader.count() != len(ids) or not np.isfinite(hits.csd[0, 3]):
                failures.append(str(ids))
            n_seen[number] += 1

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        for turn in range(12):
            store.append(items(pairs, ids=[f"pair-{turn}-a", f"pair-{turn}-b"]))
            if turn % 3 == 0:
                store.refresh_index()
            if turn % 2:
                store.delete([f"pair-{turn}-a", f"pair-{turn}-b"])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert min(n_seen) > 0
