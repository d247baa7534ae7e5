"""A program that forks a child for every job of libraries.py and kills it: of test_kills.py.

It imports everything once. An order is a JSON line on its standard input:

    {"folder": …, "job": …, "prepare": true}        makes the job's library
    {"folder": …, "job": …, "watch": true}          does the job and notes which steps write
    {"folder": …, "job": …}                         does the job, in how many seconds
    {"folder": …, "job": …, "after_s": t}           kill -9 after t seconds, wherever it is
    {"folder": …, "job": …, "at": step}             kill -9 at the end of that step
    {"folder": …, "job": …, "at": step, "after_s": t}  kill -9 so long after its beginning

and so is the answer, with the child's exit status and the step in which it ended.

A step is the time from one call, or return, to the next that the modules which write make to
anything else: Lance, FAISS, Arrow, the system. It writes if the files of the index are others at
its end. The child keeps the step it is in in memory that it shares with its parent, where a kill
does not reach it.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lance  # noqa: F401  # imported before the fork, so that a kill is not spent on imports

from prolip_search.indexes import (
    csd_index,
    durable,
    items,
    ivf_index,
    lock,
    manifest,
    mapped_rows,
    refresh,
    skipped,
    snapshot,
    store,
)
from prolip_search.indexes.store import INDEX_FOLDER
from tests.indexes.libraries import JOBS

WRITING = (
    *(csd_index, durable, items, ivf_index, lock, manifest, mapped_rows, refresh, skipped),
    *(snapshot, store),
)
WATCHED = {str(module.__file__): module.__name__.rpartition(".")[2] for module in WRITING}
STEP_BYTES = 256
SHORTEST_WRITE_S = 4e-6  # no system call changes a file in less
step_slot = mmap.mmap(-1, STEP_BYTES)  # shared with the children


def current_step() -> str:
    return step_slot[:STEP_BYTES].rstrip(b"\0").decode()


def enter_step(step: str) -> None:
    step_slot[:STEP_BYTES] = step.encode()[:STEP_BYTES].ljust(STEP_BYTES, b"\0")


def follow(on_end: Callable[[], None]) -> None:
    """From here on keeps the step in `step_slot`; on_end: called at the end of each."""

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event.startswith("c_"):
            caller: FrameType | None = frame
            callee = getattr(argument, "__qualname__", "?")
        else:
            caller, callee = frame.f_back, frame.f_code.co_qualname
            if frame.f_code.co_filename in WATCHED:
                return
        if caller is None or caller.f_code.co_filename not in WATCHED:
            return
        on_end()
        module = WATCHED[caller.f_code.co_filename]
        when = "in" if event.endswith("call") else "after"
        enter_step(f"{module}.{caller.f_code.co_qualname}: {when} {callee}")

    enter_step("before the first")
    sys.setprofile(note)


def watch(job: Callable[[], None], folder: Path) -> dict[str, Any]:
    """Does a job; how long each of its steps that write took, the longest time it was taken."""
    seconds: dict[str, float] = {}
    files, since = files_of(folder), time.perf_counter()

    def note() -> None:
        nonlocal files, since
        took_s = time.perf_counter() - since
        if took_s < SHORTEST_WRITE_S:  # most steps: looking at all files would take minutes
            since = time.perf_counter()
            return
        now = files_of(folder)
        if now != files:
            step = current_step()
            seconds[step] = max(took_s, seconds.get(step, 0))
        files, since = now, time.perf_counter()

    follow(note)
    job()
    note()
    sys.setprofile(None)
    return {"writing": seconds}


def files_of(folder: Path) -> set[tuple[str, int, int, int]]:
    """Name, size, time and inode of every file of an index."""
    found = set()
    for parent, folders, files in os.walk(folder / INDEX_FOLDER):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)  # noqa: PTH118  # this is done at every step
            status = os.lstat(path)
            is_file = name in files
            size, mtime = (status.st_size, status.st_mtime_ns) if is_file else (0, 0)
            found.add((path, size, mtime, status.st_ino))
    return found


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Does the job in this process."""
    folder, job = Path(order["folder"]), JOBS[order["job"]]
    if order.get("prepare"):
        job.prepare(folder)
        return {}
    if order.get("watch"):
        return watch(lambda: job.run(folder), folder)

    def kill_at_end() -> None:
        if "after_s" not in order and current_step() == order.get("at"):
            os.kill(os.getpid(), signal.SIGKILL)

    follow(kill_at_end)
    started = time.perf_counter()
    job.run(folder)
    sys.setprofile(None)
    return {"took_s": time.perf_counter() - started}


def kill_in_time(child: int, order: dict[str, Any]) -> None:
    """Waits for the instant and kills the child, or until it has ended."""
    ended = os.pidfd_open(child)
    try:
        while "at" in order and current_step() != order["at"]:
            if select.select([ended], [], [], 0)[0]:
                return
        if not select.select([ended], [], [], order["after_s"])[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(ended)


def main() -> None:
    # True of a process in which Lance has run; here it first runs in the child.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    for line in sys.stdin:
        order = json.loads(line)
        receive, send = os.pipe()
        enter_step("")
        child = os.fork()
        if child == 0:
            os.write(send, json.dumps(run(order)).encode())
            os._exit(0)
        os.close(send)
        if "after_s" in order:
            kill_in_time(child, order)
        with os.fdopen(receive) as pipe:
            answer = json.loads(pipe.read() or "{}")
        _, status = os.waitpid(child, 0)
        answer |= {"status": os.waitstatus_to_exitcode(status), "step": current_step()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
