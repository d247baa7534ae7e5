"""One writer and eight readers, each a process: no reader ever sees a half state."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.indexes.sharing import N_READERS

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_every_answer_is_that_of_one_committed_version(
    tmp_path: Path, seconds: int, record_property: Callable[[str, object], None]
) -> None:
    """The writer appends, moves, deletes, refreshes, folds and optimizes all the while."""
    command = [sys.executable, "-m", "tests.indexes.sharing", str(tmp_path), str(seconds)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert ended.returncode == 0, ended.stderr
    written, *readers = map(json.loads, ended.stdout.splitlines())
    record_property("versions written", written["n_versions"])
    record_property("answers", sum(reader["n_answers"] for reader in readers))
    assert len(readers) == N_READERS
    for reader in readers:
        assert reader["wrong"] == []
        assert reader["n_answers"] > 0
    # They did read while it wrote.
    assert max(reader["n_versions"] for reader in readers) > 1
