"""Permission bits that count, even where the tests run as root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

CAPABILITIES_V3 = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextmanager
def ordinary_user() -> Iterator[None]:
    """This thread, and those it starts, lose root's power to read what modes forbid (Linux).

    Capabilities belong to threads: the other threads of the test runner keep theirs.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice

    def call(function: str) -> None:
        if getattr(libc, function)(header, data) != 0:
            raise OSError(ctypes.get_errno(), f"{function} failed")

    call("capget")
    before = data[0]
    data[0] = before & ~(DAC_OVERRIDE | DAC_READ_SEARCH)
    call("capset")
    try:
        yield
    finally:
        data[0] = before
        call("capset")
