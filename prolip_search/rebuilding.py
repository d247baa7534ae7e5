"""A new index in the place of an old one, which answers until the new one is ready."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from prolip_search.errors import IndexNotWritable, StoreError
from prolip_search.indexes.manifest import EncoderRecord
from prolip_search.indexes.store import Store


def begin(folder: Path, record: EncoderRecord) -> Store:
    """An index beside `folder`: what a rebuild with this encoder left unfinished, or an empty one.

    Raises IndexNotWritable.
    """
    beside = folder.with_name(f"{folder.name}.rebuild")
    try:
        unfinished = Store.open(beside)
        if unfinished.encoder.fingerprint == record.fingerprint:
            return unfinished
    except StoreError:
        pass  # there is none, or it is of no use
    _remove(beside)
    return Store.create(beside, encoder=record)


def finish(store: Store, folder: Path) -> Store:
    """Puts a finished index in the place of the one at `folder`; the old one is deleted.

    Raises IndexLocked while another process writes to the old one, IndexNotWritable.
    """
    old = folder.with_name(f"{folder.name}.old")
    _remove(old)
    with ExitStack() as locks:
        try:
            locks.enter_context(Store.open(folder).writer())
        except StoreError as error:
            if isinstance(error, BlockingIOError):
                raise
            # A damaged index, or one of a newer format, cannot be locked, only replaced.
        try:
            if folder.exists():
                folder.rename(old)
            store.folder.rename(folder)
        except OSError as error:
            raise IndexNotWritable(
                f"Cannot replace the index at {folder}: {error.strerror}. The new one is complete "
                f"at {store.folder}; make the folder writable and run the command again.",
                path=folder,
            ) from error
    _remove(old)
    return Store.open(folder)


def _remove(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise IndexNotWritable(
            f"Cannot remove {folder}: {error.strerror}. Remove it by hand and try again.",
            path=folder,
        ) from error
