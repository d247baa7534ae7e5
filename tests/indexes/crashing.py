"""A program that writes to an index and is killed on the way: the subject of test_crash.py.

It imports everything once and forks for every order, a JSON line on its standard input:

    {"folder": …, "job": …, "step": n}       kill -9 itself at the n-th step of our code

A step is a call, or a return, in the modules that write: theirs or by them into C. The answer to
an order is a line with the exit status; for one that was not killed, the steps that it took. (Kills
at random instants, of whole runs over photos: killing.py.)
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import lance  # noqa: F401  # imported before the fork, so that a kill is not spent on imports

from prolip_search.indexes import (
    durable,
    items,
    ivf_index,
    judgements,
    lock,
    manifest,
    mapped_rows,
    refresh,
    snapshot,
    store,
)
from prolip_search.indexes.manifest import IndexSettings
from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import items as make_items
from tests.indexes.building import judged, record

WRITING = (
    *(durable, items, ivf_index, judgements, lock, manifest, mapped_rows, refresh, snapshot),
    store,
)
WATCHED = {module.__file__ for module in WRITING}
NEW_FINGERPRINT = "f" * 64


def append(folder: Path) -> None:
    opened = Store.open(folder)
    with opened.writer():
        opened.append(make_items(make_gaussians(6, 8, 1), ids=[f"new-{n}" for n in range(6)]))
        opened.refresh_index()


def change(folder: Path) -> None:
    import pyarrow as pa

    opened = Store.open(folder)
    with opened.writer():
        opened.delete(["item-0", "item-1"])
        moved = {"id": ["item-2"], "path": ["moved.jpg"], "mtime_ns": [1]}
        opened.move(pa.table(moved))
        opened.refresh_index()


def create(folder: Path) -> None:
    Store.create(folder.with_name("new") / INDEX_FOLDER, encoder=record())


def rebuild(folder: Path) -> None:
    staged = Store.rebuild(folder, encoder=record(fingerprint=NEW_FINGERPRINT))
    with staged.writer():
        present = set(staged.table(["id"])["id"].to_pylist())
        if "other-0" not in present:
            staged.append(make_items(make_gaussians(3, 8, 2), ids=[f"other-{n}" for n in range(3)]))
        staged.publish()


def optimize(folder: Path) -> None:
    Store.open(folder).optimize()


def use_lists(folder: Path) -> None:
    opened = Store.open(folder)
    with opened.writer():
        opened.configure(IndexSettings(kind="ivf", recall=0.9))
        opened.refresh_index()


def grow_a_tail(folder: Path) -> None:
    """An append of which the base is not written again."""
    with patch.multiple(refresh, SMALL_BASE=1, FOLD_SHARE=1.0):  # tests run this in-process, too
        append(folder)


def judge(folder: Path) -> None:
    """Two more judgements, what is fitted from them, and an item that leaves with its own."""
    opened = Store.open(folder)
    with opened.writer():
        opened.record_judgements(judged(["item-1", "item-2"]))
        opened.set_calibration({"n_judged": 2})
        opened.delete(["item-0"])
        opened.refresh_index()


JOBS = {
    "append": append,
    "change": change,
    "create": create,
    "rebuild": rebuild,
    "optimize": optimize,
    "use_lists": use_lists,
    "grow_a_tail": grow_a_tail,
    "judge": judge,
}


def run(order: dict[str, Any]) -> dict[str, int]:
    """Does the job in this process; the steps that it took."""
    n_steps = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal n_steps
        if frame.f_code.co_filename in WATCHED:
            n_steps += 1
            if n_steps == order.get("step"):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    JOBS[order["job"]](Path(order["folder"]))
    sys.setprofile(None)
    return {"n_steps": n_steps}


def main() -> None:
    # True of a process in which Lance has run; here it first runs in the child.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    for line in sys.stdin:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            taken = run(json.loads(line))
            os.write(send, json.dumps(taken).encode())
            os._exit(0)
        os.close(send)
        _, status = os.waitpid(child, 0)
        with os.fdopen(receive) as pipe:
            taken = json.loads(pipe.read() or "{}")
        answer = {"status": os.waitstatus_to_exitcode(status), **taken}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
