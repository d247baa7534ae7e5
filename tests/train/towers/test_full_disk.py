"""A disk that is full at checkpoint time costs a warning, not the run; at the end, an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


def test_a_full_disk_costs_checkpoints_and_never_the_run(namespace: list[str]) -> None:
    command = [*namespace, sys.executable, "-m", "tests.train.towers.filling"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert ended.returncode == 0, ended.stderr
    with_room, without, resumed = (json.loads(line) for line in ended.stdout.splitlines())

    # Full at steps 4 and 6, room again at 8: two warnings, and everything is there at the end.
    missed = [line for line in with_room["told"] if "cannot be written" in line]
    assert [line for line in missed if "checkpoint of step 4" in line]
    assert [line for line in missed if "checkpoint of step 6" in line]
    assert "step-000000002.safetensors stays the newest" in missed[0] + missed[1]
    assert with_room["checkpoints"] == ["step-000000008.safetensors", "step-000000010.safetensors"]
    assert with_room["n_logged"] == 10

    # Full until the end: an error that says what to do, and the checkpoint of before is whole.
    assert "checkpoint of step 10 cannot be written" in without["error"]
    assert "Make room in" in without["error"]
    assert "--resume auto" in without["error"]
    assert without["checkpoints"] == ["step-000000002.safetensors"]
    assert resumed["weights"] == with_room["weights"]
    assert resumed["n_logged"] == 10
    assert resumed["checkpoints"] == with_room["checkpoints"]
