from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_optimize_keeps_every_answer(run: Run, indexed: Path) -> None:
    before = run("query", "red", "--json").out
    ran = run("optimize")
    assert (ran.status, ran.out) == (0, "")
    assert "MiB now; it had" in ran.err
    assert run("query", "red", "--json").out == before


def test_the_kind_of_index_is_set_when_indexing_and_shown_by_status(run: Run, photos: Path) -> None:
    assert run("index", photos, "--index-kind", "ivf", "--recall", "0.9").status == 0
    index = json.loads(run("status", "--json").out)["index"]
    assert index["kind"] == "ivf"
    assert "ivf, recall" in run("status").out
    assert run("index", photos, "--index-kind", "flat").status == 0
    assert "search     exact" in run("status").out
    assert run("index", photos, "--recall", "3").status == 2
