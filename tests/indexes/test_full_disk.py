"""A real file system that is full at some point of every job: one clear error, nothing lost.

Where namespaces are not to be had, test_refused_writes.py still limits the size of files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_full_disk_is_one_clear_error_and_costs_nothing(
    namespace: list[str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command = [*namespace, sys.executable, "-m", "tests.indexes.filling", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert ended.returncode == 0, ended.stderr
    points = [json.loads(line) for line in ended.stdout.splitlines()]
    refused = [point for point in points if "error" in point["run"]]
    record_property("full disks", f"{len(points)} sizes, {len(refused)} of them too small")
    for point in points:
        assert "failure" not in point["run"], point
        assert "value" in point["afterwards"], point
        if point in refused:
            assert point["run"]["error"] == "IndexNotWritable", point
            assert "\n" not in point["run"]["message"]
            assert "room" in point["run"]["message"], point
    assert len({(point["job"], point["n_free"]) for point in points}) >= 50
    assert len(refused) >= 45  # what is measured as needed may be a little more than that
    assert {point["job"] for point in refused} == {point["job"] for point in points}
    assert any(point["afterwards"]["value"] for point in refused)  # leftovers, since removed
