"""kill -9 at random instants and at the end of every step that writes: the state before a commit or
after it, nothing to complain of, and the same job begun again ends as if nothing had happened.

After a kill `verify` is clean at once. What it lists as left over, and a rebuild that it notes as
unfinished, are gone when the next writer has done the job again.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.indexes.libraries import JOBS, assert_nothing_is_lost, committed_states, state_of
from tests.indexes.programs import running

N_RANDOM = 34  # kills of each job, anywhere in the time that it takes
N_IN_LONG_STEPS = 4  # and anywhere in each call of Lance, which writes several files
LONG_S = 1e-3
assert N_RANDOM * len(JOBS) >= 200

log = logging.getLogger(__name__)
Order = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def give_order() -> Iterator[Order]:
    with running("tests.indexes.killing") as program:
        yield program.ask


@pytest.mark.parametrize("job", list(JOBS))
def test_a_kill_at_any_instant_costs_nothing_that_was_committed(
    give_order: Order, tmp_path: Path, job: str, record_property: Callable[[str, object], None]
) -> None:
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    assert give_order(folder=pristine, job=job, prepare=True)["status"] == 0

    def copied(name: str) -> Path:
        return Path(shutil.copytree(pristine, tmp_path / name))

    watched = give_order(folder=copied("watched"), job=job, watch=True)
    whole = give_order(folder=copied("whole"), job=job)
    assert (watched["status"], whole["status"]) == (0, 0)
    done = tmp_path / "whole"
    states = [state_of(pristine), *committed_states(done), state_of(done)]
    steps: dict[str, float] = watched["writing"]
    hits: Counter[str] = Counter()
    n_old = n_new = n_leftovers = 0

    def kill(**when: Any) -> bool:
        """Whether the job was still on its way."""
        nonlocal n_old, n_new, n_leftovers
        folder = copied(f"kill-{hits.total()}")
        answer = give_order(folder=folder, job=job, **when)
        log.info("%s killed %s: in %r", job, when, answer["step"])
        hits[answer["step"]] += 1
        state = state_of(folder)
        n_old += state == states[0]
        n_new += state == states[-1]
        n_leftovers += bool(assert_nothing_is_lost(folder, job, states).leftovers)
        shutil.rmtree(folder)
        return bool(answer["status"] == -9)

    rng = np.random.default_rng(20)
    n_killed = 0
    while n_killed < N_RANDOM:  # on a busy machine a job may be done before its time is up
        n_killed += kill(after_s=rng.uniform() * whole["took_s"])
    n_by_chance = sum(hits[step] > 0 for step in steps)
    for step, took_s in steps.items():
        if took_s > LONG_S:
            for share in rng.uniform(0, 1, N_IN_LONG_STEPS).tolist():
                kill(at=step, after_s=share * took_s)
        if not hits[step] or took_s <= LONG_S:
            assert kill(at=step), step
    missed = [step for step in steps if not hits[step]]
    assert missed == []
    summary = (
        f"{hits.total()} kills, {n_killed} at random; {len(steps)} steps that write were all hit, "
        f"{n_by_chance} of them by chance; {n_old} before the first commit, {n_new} after the "
        f"last, {n_leftovers} with leftovers"
    )
    log.info("%s: %s", job, summary)
    record_property("kills", f"{job}: {summary}")
    for step in steps:
        record_property("killed in", f"{hits[step]} times {step}")
    assert n_leftovers > 0
