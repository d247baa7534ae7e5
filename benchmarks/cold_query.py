"""What does a query cost in a new process, and what does `--help`?

    python -m benchmarks.cold_query [--items 100000] [--index FOLDER] [--out FILE]

Ratios against `import torch` and `import typer` in the same run, medians of alternating runs. The
index is FOLDER, or one of seeded Gaussians of the bundled encoder's dimension, made for the
occasion. Python's bytecode lies ready for all of them, as an installation leaves it. The breakdown
that `--timings` prints is compared with what the system charged for the same processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.growth import stream
from benchmarks.machine import facts_of_run
from benchmarks.processes import time_commands
from prolip_search.engine import SearchEngine

QUERY_LIMIT = 0.35  # CPU time, of `import torch`
HELP_LIMIT = 2.0  # CPU time, of `import typer`
# Found, or perhaps nothing that matches: seeded Gaussians show no dog.
GOOD_STATUSES = (0, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="a folder that holds an index")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    program = shutil.which("prolip-search")
    if program is None:
        sys.exit("prolip-search is not on PATH: install it first")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(scratch) / "bytecode")
        index = options.index or made_index(Path(scratch) / "index", options.items)
        status = SearchEngine.open(index).status()
        result = facts_of_run() | {"items": status.n_images, "index_kind": status.index.kind}
        result |= measure(program, index, options.runs)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0 if result["query / import torch, CPU"] <= QUERY_LIMIT else 1


def made_index(folder: Path, n: int) -> Path:
    """An index of n seeded Gaussians for the bundled encoder."""
    engine = SearchEngine.create(folder)
    engine.add_gaussians(stream(n, engine.encoder.dim))
    return folder


def measure(program: str, index: Path, n_runs: int) -> dict[str, Any]:
    """Timings, ratios and breakdown."""
    query = [program, "query", "a dog in the snow", "--index", str(index), "--json"]
    timings = time_commands(
        {
            "query": query,
            "import torch": [sys.executable, "-c", "import torch"],
            "--help": [program, "--help"],
            "import typer": [sys.executable, "-c", "import typer"],
        },
        n_runs=n_runs,
        n_warmup=2,
        good_statuses=GOOD_STATUSES,
    )
    help_ratio = timings["--help"].cpu_s / timings["import typer"].cpu_s
    return {
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "query / import torch, CPU": timings["query"].cpu_s / timings["import torch"].cpu_s,
        "query / import torch, wall": timings["query"].wall_s / timings["import torch"].wall_s,
        "--help / import typer, CPU": help_ratio,
        "--help within its limit": help_ratio <= HELP_LIMIT,
        **breakdown([*query, "--timings"], n_runs),
    }


def breakdown(query: list[str], n_runs: int) -> dict[str, Any]:
    """What `--timings` says, CPU time, and its total against what the system charged."""
    runs: list[dict[str, float]] = []
    charged: list[float] = []
    for _ in range(n_runs):
        before = os.times()
        done = subprocess.run(query, check=False, capture_output=True, text=True)
        after = os.times()
        if done.returncode not in GOOD_STATUSES:
            sys.exit(done.stderr)
        charged.append(
            sum(after[2:4]) - sum(before[2:4])  # of children, user and system
        )
        rows = (line.split() for line in done.stderr.splitlines()[-9:])
        runs.append({" ".join(w for w in row if w.isalpha()): float(row[-1]) for row in rows})
    stages = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = stages.pop("total")
    return {
        "breakdown_cpu_ms": stages,
        "breakdown_total_cpu_ms": total,
        "breakdown sum / total": sum(stages.values()) / total,
        "breakdown total / CPU charged": total / 1e3 / statistics.median(charged),
    }


if __name__ == "__main__":
    sys.exit(main())
