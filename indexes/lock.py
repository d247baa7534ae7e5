"""One writer at a time: an advisory lock that the operating system drops when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

from prolip_search.errors import IndexLocked, IndexNotWritable

LOCK_NAME = "writer.lock"


class WriterLock:
    """An exclusive flock on writer.lock, counted, so that a holder may take it again.

    The file holds a JSON record of the holder while it is held and nothing after a clean release:
    a record found by the next holder says that a writer died or failed and left things to tidy.
    Threads of one process that share the object wait for each other; another process gets
    IndexLocked at once. Readers never lock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._thread = threading.RLock()
        self._depth = 0
        self._file = -1
        self._clean = True

    def acquire(self) -> bool:
        """Takes the lock; True when the writer before us did not end cleanly.

        Raises IndexLocked naming the holder, IndexNotWritable for a read-only folder.
        """
        self._thread.acquire()
        died = False
        try:
            if self._depth == 0:
                died = self._lock()
            self._depth += 1
        except BaseException:
            self._thread.release()
            raise
        return died

    def release(self, *, clean: bool = True) -> None:
        """Gives the lock back when every acquire has been matched.

        clean: whether the writes went well; if not, the next holder is told to tidy up.
        """
        self._clean = self._clean and clean
        self._depth -= 1
        try:
            if self._depth == 0:
                if self._clean:
                    os.ftruncate(self._file, 0)
                os.close(self._file)
                self._file = -1
        finally:
            self._thread.release()

    def _lock(self) -> bool:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise IndexNotWritable(
                f"Cannot write to the index at {self.path.parent}: {error.strerror}. Searching it "
                "still works; to change it, make the folder writable.",
                path=self.path.parent,
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _describe(os.pread(file, 1 << 12, 0))
            os.close(file)
            raise IndexLocked(
                f"The index at {self.path.parent} is being written by {holder}. "
                "Wait until it has finished, or stop it, and run the command again.",
                path=self.path,
            ) from error
        except OSError as error:
            os.close(file)
            raise IndexNotWritable(
                f"The file system of {self.path.parent} cannot lock files ({error.strerror}). "
                "Keep the index on a local disk.",
                path=self.path,
            ) from error
        died = bool(os.pread(file, 1, 0))
        holder_record = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        record = json.dumps(holder_record).encode()
        try:
            # Written over the old record before the rest is cut off, so that at no instant the
            # file is empty: a writer that dies here still leaves word of it.
            os.pwrite(file, record, 0)
            os.ftruncate(file, len(record))
        except OSError as error:
            os.close(file)
            raise IndexNotWritable(
                f"Cannot write to the index at {self.path.parent}: {error.strerror}. "
                "Make room on the disk and run the command again.",
                path=self.path,
            ) from error
        self._file = file
        self._clean = True
        return died


def _describe(record: bytes) -> str:
    """The holder in words; the record may be half written, or not ours."""
    try:
        holder = json.loads(record)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
