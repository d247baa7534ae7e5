"""Where the time of a query goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Stage:
    """Seconds spent so far: by the clock, and by the processor in all threads of the process."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


class Timings:
    """Stages by name, in the order in which they first began; a stage may be entered many times."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what runs inside towards a stage, also when it raises."""
        stage = self.stages.setdefault(name, Stage())
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            stage.wall_s += time.perf_counter() - wall
            stage.cpu_s += time.process_time() - cpu
