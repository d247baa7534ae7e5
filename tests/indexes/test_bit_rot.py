"""Flipped bits and cut-off ends in every file of an index: the right answer or a clear error.

test_damage.py looks closer at single files, and at what was made up on purpose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prolip_search.indexes.store import INDEX_FOLDER
from tests.indexes.damaging import STATES
from tests.indexes.programs import running

N_CASES = 6  # of a file, every third of them a cut
N_OF_MANY = 2  # of Lance's manifests and transactions, which are many
LEAST_CASES = 125  # of each state
assert LEAST_CASES * len(STATES) >= 500

MANY = ("_versions", "_transactions")
DERIVED = {"csd.json", "csd.vectors", "csd.arrow"}
LANCE = {f"items/{name}" for name in ("data", "_versions", "_transactions", "_deletions")}
SKIPPED = {f"skipped/{name}" for name in ("data", "_versions", "_transactions")}
JUDGED = {f"judgements/{name}" for name in ("data", "_versions", "_transactions")}
SUMS = {f"{name}/checksums.txt" for name in ("items", "skipped", "judgements")}
# Of every state; what a search of that state reads besides.
KINDS = {"manifest.json", *LANCE, *SKIPPED, *JUDGED, *SUMS}
MORE_KINDS = {
    "lists": {*DERIVED, "csd.ivf", "csd.faiss", "csd.dead"},
    "flat": {*DERIVED, "csd.faiss"},
    "behind": {*DERIVED, "csd.ivf", "csd.faiss", "csd.dead"},
    "missing": set[str](),
}

Order = Callable[..., Iterator[dict[str, Any]]]


@pytest.fixture(scope="module")
def give_order() -> Iterator[Order]:
    with running("tests.indexes.damaging", quiet=True) as program:  # it warns of damage

        def give(**order: Any) -> Iterator[dict[str, Any]]:
            program.send(**order)
            for _ in order.get("damage", [None]):
                yield program.receive()

        yield give


def kind_of(path: Path, index: Path) -> str:
    """`csd-12.arrow` -> csd.arrow, `items-….lance/data/….lance` -> items/data."""
    parts = path.relative_to(index).parts
    if len(parts) == 1:
        return re.sub(r"^csd-[0-9-]+", "csd", parts[0])
    return f"{re.split('[-.]', parts[0])[0]}/{parts[1]}"


@pytest.mark.parametrize("state", list(STATES))
def test_damage_anywhere_is_a_clear_error_or_changes_no_answer(
    give_order: Order,
    tmp_path: Path,
    state: str,
    record_property: Callable[[str, object], None],
) -> None:
    assert [made["status"] for made in give_order(library=tmp_path, make=state)] == [0]
    (whole,) = give_order(library=tmp_path)
    right = whole["answers"]
    assert right["verify"] == {"value": []}
    assert all("value" in answer for answer in right.values())
    index = tmp_path / INDEX_FOLDER
    rng = np.random.default_rng(list(STATES).index(state))
    cases: list[tuple[Path, int | None, int | None]] = []
    for path in sorted(path for path in index.rglob("*") if path.is_file()):
        size = path.stat().st_size
        if not size:  # the writer's lock, when nobody writes
            continue
        for number in range(N_OF_MANY if path.parent.name in MANY else N_CASES):
            is_cut = number % 3 == 1
            cases.append(
                (path, None, int(rng.integers(size)))
                if is_cut
                else (path, int(rng.integers(8 * size)), None)
            )
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for case, found in zip(cases, give_order(library=tmp_path, damage=cases), strict=True):
        assert found["status"] == 0, (case, "the process did not survive it")
        for question, answer in found["answers"].items():
            if "error" in answer:
                assert "\n" not in answer["message"], case
                assert len(answer["message"]) < 1000, case
                outcomes[answer["error"]] += 1
            elif question != "verify":  # that may find something, and so it should
                assert answer == right[question], (case, question)
                outcomes["right answers"] += 1
        kinds[kind_of(case[0], index)] += 1
    record_property("damaged files", f"{state}: {len(cases)} cases, {dict(kinds)}")
    record_property("outcomes", f"{state}: {dict(outcomes)}")
    assert len(cases) >= LEAST_CASES
    assert kinds.keys() >= KINDS | MORE_KINDS[state]
    assert outcomes["IndexDamaged"] > 0
    assert outcomes["right answers"] > 0
