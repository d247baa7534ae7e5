"""Where the time of a command went, for --timings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prolip_search.timings import Timings

# What the stages of an engine are called on screen.
NAMES = {
    "open": "open index",
    "load": "session load",
    "encode": "encode",
    "search": "search",
    "fetch": "fetch",
}


class Breakdown:
    """Counts from its making, which imports the engine, until its lines are asked for."""

    def __init__(self) -> None:
        self._start_cpu_s = time.process_time()  # Python itself, Typer and this package's command
        self._start = time.perf_counter()
        import_module("prolip_search.engine")
        self._imports = (time.perf_counter() - self._start, self._cpu_s())
        self._timings: Timings | None = None

    def follow(self, timings: Timings) -> None:
        """Takes the stages in between from an engine."""
        self._timings = timings

    def lines(self) -> Iterator[str]:
        """A table in milliseconds; what no stage accounts for is called print."""
        whole = (time.perf_counter() - self._start, self._cpu_s())
        rows = {"imports": self._imports}
        if self._timings is not None:
            stages = self._timings.stages
            rows |= {
                name: (stages[key].wall_s, stages[key].cpu_s)
                for key, name in NAMES.items()
                if key in stages
            }
        rows["print"] = (
            max(0.0, whole[0] - sum(wall for wall, _ in rows.values())),
            max(0.0, whole[1] - sum(cpu for _, cpu in rows.values())),
        )
        rows["total"] = (whole[0], whole[1] + self._start_cpu_s)
        yield f"{'':<14}{'wall':>9}{'CPU':>9}  ms"
        yield f"{'start':<14}{'':>9}{self._start_cpu_s * 1e3:>9.1f}"
        for name, (wall_s, cpu_s) in rows.items():
            yield f"{name:<14}{wall_s * 1e3:>9.1f}{cpu_s * 1e3:>9.1f}"

    def _cpu_s(self) -> float:
        return time.process_time() - self._start_cpu_s
