"""A program in which one process writes to an index and eight read it: of test_readers.py.

    python -m tests.indexes.sharing FOLDER SECONDS

Every move gives all items a path that names its turn, so that an answer put together from two
versions shows. The writer notes which items there were from which version on; the readers, which
version they saw and what it answered. Printed is a JSON line for each reader: how many answers it
got, from how many versions, and what was wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import lance  # noqa: F401  # imported before the fork, once for all
import numpy as np
import pyarrow as pa

from prolip_search.gaussians import Gaussians
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.stamp import latest_stamp
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import items, new_store
from tests.indexes.libraries import any_base_has_a_tail

DIM = 8
N_READERS = 8
N_FIXED = 30  # items that are always there; others come and go
N_PASSING = 4
QUERIES = make_gaussians(2, DIM, 77)
GAUSSIANS = make_gaussians(1000, DIM, 78)

Content = dict[str, str]  # the path of every item, by id
Answer = list[list[list[str]]]  # id and path of every item, for each query, the nearest first


def number_of(id: str) -> int:
    """Which of GAUSSIANS an item has."""
    return int(id.rpartition("-")[2])


def gaussians_of(ids: list[str]) -> Gaussians:
    return GAUSSIANS[np.array([number_of(id) for id in ids], np.int64)]


def right_answer(content: Content) -> Answer:
    ids = sorted(content)
    rows = gaussians_of(ids)
    queries, mean = QUERIES.mean.astype(np.float64), rows.mean.astype(np.float64)
    csd = np.square(queries[:, None] - mean).sum(-1) + rows.uncertainty
    return [[[ids[at], content[ids[at]]] for at in order] for order in csd.argsort(1)]


def answer_of(store: Store) -> Answer:
    found = store.search(QUERIES, N_FIXED + 2 * N_PASSING)
    tables = [store.rows(row[row >= 0], ["id", "path"]) for row in found.row_id]
    answers = [
        [list(pair) for pair in zip(t["id"].to_pylist(), t["path"].to_pylist(), strict=True)]
        for t in tables
    ]
    assert store.count() == len(answers[0])
    return answers


class Writer:
    """Changes the index in every way there is, again and again."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(folder)
        self.content: Content = {}
        self.history: dict[int, Content] = {}

    def note(self) -> None:
        stamp = latest_stamp(self.store.folder / self.store.manifest.items_table)
        assert stamp is not None
        self.history[stamp.version] = dict(self.content)

    def append(self, ids: list[str]) -> None:
        rows = items(gaussians_of(ids), ids=ids)
        self.store.append(rows)
        self.content |= dict(zip(ids, rows["path"].to_pylist(), strict=True))
        self.note()

    def delete(self, ids: list[str]) -> None:
        self.store.delete(ids)
        for id in ids:
            del self.content[id]
        self.note()

    def move(self, turn: int) -> None:
        self.content = {id: f"{turn}/{id}.jpg" for id in self.content}
        moved = {"id": list(self.content), "path": list(self.content.values())}
        self.store.move(pa.table(moved | {"mtime_ns": [turn] * len(self.content)}))
        self.note()

    def turn(self, turn: int) -> None:
        passing = [f"passing-{N_FIXED + turn * N_PASSING % 900 + n}" for n in range(N_PASSING)]
        fixed = f"fixed-{turn % N_FIXED}"
        self.append(passing)
        self.store.refresh_index()  # a tail
        self.delete([fixed])
        if turn % 2:
            self.store.refresh_index()  # a dead row of the base
        self.append([fixed])
        if turn % 3 == 0:
            self.move(turn)
            self.store.refresh_index()
        self.delete(passing)
        if turn % 4 == 0:
            self.store.refresh_index(fold=True)
        if turn % 5 == 0:
            self.store.configure(IndexSettings(kind="ivf" if turn % 10 else "flat"))
        if turn % 7 == 0:
            self.store.optimize()
            self.note()


def read(folder: Path, number: int, done: Path) -> dict[str, Any]:
    """Reads until told to stop; every answer of every version that was seen."""
    seen: list[tuple[int, Answer]] = []
    store = Store.open(folder)
    for turn in count():
        if turn % 2 == number % 2:
            store = Store.open(folder)
        else:
            store.reload()
        answer = answer_of(store)
        if not seen or seen[-1] != (store.version, answer):
            seen.append((store.version, answer))
        if done.exists():
            return {"n_answers": turn + 1, "seen": seen}
    raise AssertionError("unreachable")


def child(task: Callable[[], Any], result: Path) -> int:
    """A process that leaves what came of a task in a file."""
    pid = os.fork()
    if pid:
        return pid
    try:
        outcome: Any = {"value": task()}
    except BaseException:  # noqa: BLE001  # told to the test, whatever it is
        outcome = {"failure": traceback.format_exc()}
    result.write_text(json.dumps(outcome))
    os._exit(0)


def main() -> None:
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    done = folder / "done"
    results = [folder / f"{n}.json" for n in range(N_READERS + 1)]
    # In a child as well: Lance starts threads, which a fork would not take along.
    os.waitpid(child(lambda: new_store(folder, DIM).version, results[-1]), 0)

    def write() -> dict[int, Content]:
        writer = Writer(folder / INDEX_FOLDER)
        writer.note()
        with any_base_has_a_tail():
            writer.append([f"fixed-{n}" for n in range(N_FIXED)])
            end = time.monotonic() + seconds
            for turn in count(1):
                writer.turn(turn)
                if time.monotonic() > end:
                    return writer.history
        raise AssertionError("unreachable")

    writer = child(write, results[-1])
    readers = [
        child(lambda n=n: read(folder / INDEX_FOLDER, n, done), results[n])  # type: ignore[misc]
        for n in range(N_READERS)
    ]
    os.waitpid(writer, 0)
    done.touch()
    for reader in readers:
        os.waitpid(reader, 0)
    for line in judge(*(json.loads(path.read_text()) for path in results)):
        sys.stdout.write(json.dumps(line) + "\n")


def judge(*outcomes: dict[str, Any]) -> list[dict[str, Any]]:
    """Compares what was read with what was written."""
    *readers, writer = outcomes
    if "failure" in writer:
        sys.exit(writer["failure"])
    history = {int(version): content for version, content in writer["value"].items()}
    right = {version: right_answer(content) for version, content in history.items()}
    lines: list[dict[str, Any]] = [{"n_versions": len(history)}]
    for reader in readers:
        wrong = [reader["failure"]] if "failure" in reader else []
        value = reader.get("value", {"n_answers": 0, "seen": []})
        versions = [version for version, _ in value["seen"]]
        if versions != sorted(set(versions)):
            wrong.append(f"versions came in the order {versions}")
        for version, answer in value["seen"]:
            # Joining fragments makes a version of its own, with the items of the one before.
            if answer != right[max(known for known in right if known <= version)]:
                wrong.append(f"version {version} answered {answer}")
        answers = {"n_answers": value["n_answers"], "n_versions": len(versions)}
        lines.append(answers | {"wrong": wrong})
    return lines


if __name__ == "__main__":
    main()
