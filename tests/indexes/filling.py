"""A program that does the jobs of libraries.py on a disk that fills up: of test_full_disk.py.

    unshare -rm python -m tests.indexes.filling FOLDER

The disk is a tmpfs of its own, which is given as much room as is wanted; a namespace makes that
possible without privileges. Printed is a JSON line for each time a job ran out of room, or did not:
the job, the pages that were free, the error, and what was wrong afterwards, with room again.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lance  # noqa: F401  # imported before the fork, once for all
import numpy as np

from prolip_search.errors import ProlipSearchError
from tests.indexes.libraries import JOBS, assert_nothing_is_lost, committed_states, state_of

N_SIZES = 9  # of each job
PAGE_BYTES = 4096
ROOMY_PAGES = 1 << 14
WATCH_S = 0.0005


def mount(disk: Path, n_pages: int, *, again: bool = False) -> None:
    options = f"{'remount,' if again else ''}size={n_pages * PAGE_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


def used_pages(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_blocks - status.f_bfree


class Child:
    """A process that does a task; Lance and FAISS do not survive a fork of a process with them."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self._receive, send = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                outcome: Any = {"value": task()}
            except ProlipSearchError as error:
                outcome = {"error": type(error).__name__, "message": str(error)}
            except BaseException:  # noqa: BLE001  # told to the test, whatever it is
                outcome = {"failure": traceback.format_exc()}
            with os.fdopen(send, "w") as pipe:
                pipe.write(json.dumps(outcome))
            os._exit(0)
        os.close(send)

    def outcome(self) -> dict[str, Any]:
        with os.fdopen(self._receive) as pipe:
            text = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        if status:
            return {"failure": f"exit status {os.waitstatus_to_exitcode(status)}"}
        return json.loads(text)  # type: ignore[no-any-return]  # JSON


def most_pages(disk: Path, child: Child) -> int:
    """The most that was in use on the disk until the child had ended."""
    most, ended = 0, os.pidfd_open(child.pid)
    while not select.select([ended], [], [], WATCH_S)[0]:
        most = max(most, used_pages(disk))
    os.close(ended)
    return most


def fill(folder: Path, job: str, rng: np.random.Generator) -> None:
    """Does one job with several amounts of room."""
    pristine, disk = folder / job, folder / "disk"
    library = disk / "library"
    pristine.mkdir()
    disk.mkdir(exist_ok=True)
    prepared = Child(lambda: JOBS[job].prepare(pristine)).outcome()
    assert prepared == {"value": None}, prepared

    def on_fresh_disk(n_free: int) -> int:
        """Puts the library on the disk; the pages that it takes."""
        mount(disk, ROOMY_PAGES)
        shutil.copytree(pristine, library)
        n_used = used_pages(disk)
        mount(disk, n_used + n_free, again=True)
        return n_used

    n_used = on_fresh_disk(ROOMY_PAGES)
    whole = Child(lambda: JOBS[job].run(library))
    n_needed = most_pages(disk, whole) - n_used
    assert whole.outcome() == {"value": None}
    states = Child(
        lambda: [state_of(pristine), *committed_states(library), state_of(library)]
    ).outcome()["value"]
    subprocess.run(["umount", str(disk)], check=True)
    edges = np.linspace(0, n_needed, N_SIZES + 1).astype(int)
    for low, high in pairwise(edges.tolist()):
        n_free = int(rng.integers(low, max(high, low + 1)))
        on_fresh_disk(n_free)
        outcome = Child(lambda: JOBS[job].run(library)).outcome()
        mount(disk, ROOMY_PAGES, again=True)

        def check() -> int:
            return len(assert_nothing_is_lost(library, job, states).leftovers)

        afterwards = Child(check).outcome()
        result = {"job": job, "n_free": n_free, "n_needed": n_needed, "run": outcome}
        sys.stdout.write(json.dumps(result | {"afterwards": afterwards}) + "\n")
        sys.stdout.flush()
        subprocess.run(["umount", str(disk)], check=True)


def main() -> None:
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    rng = np.random.default_rng(30)
    for job in JOBS:
        fill(Path(sys.argv[1]), job, rng)


if __name__ == "__main__":
    main()
