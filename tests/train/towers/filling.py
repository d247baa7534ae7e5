"""A program that trains on a disk that fills up: of test_full_disk.py.

    unshare --map-root-user --mount python -m tests.train.towers.filling

The disk is a tmpfs of its own. It is full from step 3 on; the first run has room again at step 7,
the second never has. Printed is one JSON line for each run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from prolip_search.errors import ProlipSearchError
from prolip_search.train.towers.loop import Step
from tests.train.towers.tiny import tiny_config, tiny_run

SIZE = "8M"
CONFIG: dict[str, Any] = {"seen_samples": 80, "checkpoints": {"every": 2, "keep": 2}}


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def run(disk: Path, *, room_at: int | None, resume: bool = False) -> dict[str, Any]:
    """Trains in `disk/out`; what was said, and what came out."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]  # a list is enough
    logging.getLogger("prolip_search").addHandler(handler)

    def report(step: Step) -> None:
        if step.step == 3 and not resume:
            fill(disk)
        if step.step == room_at:
            (disk / "filler").unlink()

    out = disk / "out"
    outcome: dict[str, Any] = {"told": told}
    try:
        model = tiny_run(out, tiny_config(**CONFIG), report=report, resume=resume)
        weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
        outcome["weights"] = hashlib.sha256(weights).hexdigest()
    except ProlipSearchError as error:
        outcome["error"] = str(error)
    logging.getLogger("prolip_search").removeHandler(handler)
    outcome["checkpoints"] = sorted(path.name for path in (out / "checkpoints").iterdir())
    outcome["n_logged"] = (out / "log.jsonl").read_bytes().count(b"\n")
    return outcome


def on_a_disk(*runs: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
        try:
            for options in runs:
                sys.stdout.write(json.dumps(run(disk, **options)) + "\n")
                (disk / "filler").unlink(missing_ok=True)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    on_a_disk({"room_at": 7})
    on_a_disk({"room_at": None}, {"room_at": None, "resume": True})
