"""Keeping an index current: looking again whenever something changes in its folders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import watchfiles

from prolip_search.errors import IndexLocked
from prolip_search.files import CANDIDATE_SUFFIXES
from prolip_search.ignoring import IGNORE_FILE
from prolip_search.indexing import IndexReport

QUIET_MS = 500  # no change for so long, and a burst of changes is over
LONGEST_BURST_MS = 10_000  # one that goes on is looked at so often all the same


def watch(
    run: Callable[[], IndexReport],
    roots: Sequence[Path],
    *,
    index_folder: Path,
    stop: threading.Event | None = None,
    on_locked: Callable[[IndexLocked], None] = lambda error: None,
) -> Iterator[IndexReport]:
    """Yields the report of a first run, and of another after each burst of changes, until `stop`.

    The watch begins before the first run, so nothing that changes meanwhile is missed. While
    another process writes to the index the run waits: on_locked is told once.
    """
    is_due, has_told = True, False
    for changes in watchfiles.watch(
        *(root for root in roots if root.exists()),
        watch_filter=lambda change, path: concerns(Path(path), roots, index_folder),
        debounce=LONGEST_BURST_MS,
        step=QUIET_MS,
        rust_timeout=QUIET_MS,
        yield_on_timeout=True,
        stop_event=stop,
        ignore_permission_denied=True,
    ):
        if not changes and not is_due:
            continue
        try:
            report = run()
        except IndexLocked as error:
            if not has_told:
                on_locked(error)
            is_due, has_told = True, True
            continue
        is_due = has_told = False
        yield report


def concerns(path: Path, roots: Sequence[Path], index_folder: Path) -> bool:
    """Whether a change there can change the index: a candidate, a folder, or a file of patterns."""
    if path.is_relative_to(index_folder):
        return False
    if path.name == IGNORE_FILE:
        return True
    home = next((root for root in roots if path.is_relative_to(root)), path)
    if any(part.startswith(".") for part in path.relative_to(home).parts):
        return False
    # A folder that is gone cannot be asked whether it was one.
    return path.suffix.lower() in CANDIDATE_SUFFIXES or not path.suffix or path.is_dir()
