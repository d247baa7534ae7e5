"""Whole-process timings: what a person waits for, as the operating system accounts it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Timing:
    """Medians over the counted runs of one command."""

    wall_s: float
    cpu_s: float
    n_runs: int


def time_commands(
    commands: Mapping[str, Sequence[str]],
    *,
    n_runs: int = 7,
    n_warmup: int = 1,
    good_statuses: Collection[int] = (0,),
) -> dict[str, Timing]:
    """Each command in turn, round after round, so that drift of the machine falls on all alike.

    Raises CalledProcessError when a command fails: a broken command is fast.
    """
    walls: dict[str, list[float]] = {name: [] for name in commands}
    cpus: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(n_warmup + n_runs):
        for name, command in commands.items():
            wall, cpu = _run_once(command, good_statuses)
            if round_number >= n_warmup:
                walls[name].append(wall)
                cpus[name].append(cpu)
    return {name: Timing(median(walls[name]), median(cpus[name]), n_runs) for name in commands}


def _run_once(command: Sequence[str], good_statuses: Collection[int]) -> tuple[float, float]:
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in good_statuses:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
    return wall, usage.ru_utime + usage.ru_stime
