"""How tests/formats/v1 was made. It is never made again: what is there must open for ever.

python -m tests.formats.make_v1 FOLDER
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow as pa

from prolip_search.indexes.store import INDEX_FOLDER, Store
from tests.conftest import make_gaussians
from tests.indexes.building import items, record


def main(folder: Path) -> None:
    store = Store.create(folder / INDEX_FOLDER, encoder=record(8, name="mini"))
    gaussians = make_gaussians(12, 8, 1)
    store.append(items(gaussians[:8], width=pa.array(range(8), pa.int32())))
    texts = [f"caption {number}" for number in range(2)]
    store.append(items(gaussians[8:10], ids=["text-0", "text-1"], kind="text", text=texts))
    store.delete(["item-3"])
    store.move(pa.table({"id": ["item-5"], "path": ["it's\nmoved/5.jpg"], "mtime_ns": [55]}))
    store.refresh_index()
    # Two rows that the derived files do not have.
    store.append(items(gaussians[10:], ids=["late-0", "late-1"]))
    store.record_skipped(
        pa.table(
            {
                "path": ["broken.jpg"],
                "reason": ["truncated"],
                "detail": ["image file is truncated"],
                "size_bytes": pa.array([17], pa.int64()),
                "mtime_ns": pa.array([18], pa.int64()),
            }
        )
    )
    # As it lies in the repository: without the leading dot, so that no ignore rule takes it.
    shutil.move(folder / INDEX_FOLDER, folder / "index")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
