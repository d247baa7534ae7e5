"""Outputs of frozen networks, kept: each photo and caption goes through them once.

They are kept in blocks, each written whole and then renamed, and an interrupted caching goes on
with the first block that is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["Progress", "cache_key", "cached_blocks"]

Progress = Callable[[str, int, int], None]  # what, done, total


def cache_key(*parts: Any) -> str:
    """Sixteen digits that change whenever anything the features depend on does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def cached_blocks(
    folder: Path,
    n_rows: int,
    n_per_block: int,
    encode: Callable[[range], dict[str, Tensor]],
    progress: Callable[[int], None],
) -> Iterator[dict[str, Tensor]]:
    """What `encode` gives for every row, some at a time, from the folder where it is there.

    progress: told how many rows are done. A block that is damaged is made anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, n_rows, n_per_block):
        rows = range(start, min(start + n_per_block, n_rows))
        path = folder / f"{start:07d}.safetensors"
        block = _read_block(path)
        if block is None:
            block = encode(rows)
            unfinished = path.with_suffix(".part")
            save_file(block, unfinished)
            unfinished.replace(path)
        progress(rows.stop)
        yield block


def _read_block(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):  # missing or damaged: made anew
        return None
