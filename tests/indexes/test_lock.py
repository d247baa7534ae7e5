from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prolip_search.errors import IndexLocked, QueryError
from prolip_search.indexes.lock import LOCK_NAME, WriterLock
from prolip_search.indexes.store import Store
from tests.conftest import make_gaussians
from tests.indexes.building import filled_store, items

HOLD = """
import sys
from pathlib import Path
from prolip_search.indexes.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
lock.release()
"""


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the writer's lock."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    with holder(store.folder) as process:
        with pytest.raises(IndexLocked, match=rf"process {process.pid} on .* since 20"):
            store.append(items(make_gaussians(1, 8, 1), ids=["x"]))
        assert store.count() == 20  # a reader needs no lock
        assert store.search(make_gaussians(1, 8, 1), 3).row_id.min() >= 0


def test_two_stores_of_one_process_are_two_writers(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    with (
        store.writer(),
        pytest.raises(IndexLocked, match=f"process {os.getpid()}"),
        Store.open(store.folder).writer(),
    ):
        pass


def test_the_lock_of_a_killed_writer_is_free_and_says_that_it_was_killed(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
    lock = WriterLock(tmp_path)
    assert lock.acquire()
    lock.release()
    assert not lock.acquire()
    lock.release()


def test_a_record_that_is_half_written_still_names_another_process(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    with holder(store.folder):
        (store.folder / LOCK_NAME).write_text('{"pid": 1')
        with pytest.raises(IndexLocked, match="written by another process"), store.writer():
            pass


def test_a_writer_can_take_its_lock_again(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    with store.writer(), store.writer():
        store.delete(["item-1"])
    with Store.open(store.folder).writer():  # and it is free again
        pass


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    store = filled_store(tmp_path)
    with pytest.raises(QueryError), store.writer():
        store.append(items(make_gaussians(1, 8, 0), ids=["item-1"]))
    with pytest.raises(KeyboardInterrupt), store.writer():
        raise KeyboardInterrupt
    with Store.open(store.folder).writer():
        pass


def test_threads_that_share_a_store_wait_for_each_other(tmp_path: Path) -> None:
    store = filled_store(tmp_path, n=4)
    new = make_gaussians(8, 8, 1)

    def write(number: int) -> None:
        store.append(items(new[number], ids=[f"new-{number}"]))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 12
