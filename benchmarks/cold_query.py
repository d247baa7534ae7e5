"""What does a query cost in a new process, and what does `--help`?

    python -m benchmarks.cold_query --index FOLDER [--json]

Ratios against `import torch` and `import typer` in the same run, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from dataclasses import asdict

from benchmarks.processes import time_commands

QUERY_LIMIT = 0.5  # of `import torch`
HELP_LIMIT = 2.0  # of `import typer`


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", required=True, help="a folder that holds an index")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    program = shutil.which("prolip-search")
    if program is None:
        sys.exit("prolip-search is not on PATH: install it first")
    timings = time_commands(
        {
            "query": [program, "query", "a dog in the snow", "--index", options.index, "--json"],
            "import torch": [sys.executable, "-c", "import torch"],
            "--help": [program, "--help"],
            "import typer": [sys.executable, "-c", "import typer"],
        },
        n_runs=options.runs,
    )
    ratios = {
        "query / import torch, CPU": timings["query"].cpu_s / timings["import torch"].cpu_s,
        "query / import torch, wall": timings["query"].wall_s / timings["import torch"].wall_s,
        "--help / import typer, CPU": timings["--help"].cpu_s / timings["import typer"].cpu_s,
        "--help / import typer, wall": timings["--help"].wall_s / timings["import typer"].wall_s,
    }
    if options.json:
        result = {
            "machine": platform.platform(),
            "python": platform.python_version(),
            "timings": {name: asdict(timing) for name, timing in timings.items()},
            "ratios": ratios,
        }
        print(json.dumps(result, indent=2))
    else:
        for name, timing in timings.items():
            print(f"{name:<14} wall {timing.wall_s:6.3f} s   CPU {timing.cpu_s:6.3f} s")
        for name, ratio in ratios.items():
            print(f"{name:<28} {ratio:5.2f}")
    within = all(
        ratio <= (QUERY_LIMIT if name.startswith("query") else HELP_LIMIT)
        for name, ratio in ratios.items()
    )
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
