"""What a result has to say of where it came from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "numpy",
    "faiss-cpu",
    "pylance",
    "lancedb",
    "pyarrow",
    "onnxruntime",
    "torch",
    "usearch",
    "hnswlib",
)


def work_s(action: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of processor time on a CPU, which other programs do not lengthen; by the clock on
    a GPU."""
    if device == "cpu":
        start = time.process_time()
        action()
        return time.process_time() - start
    import torch  # most benchmarks do without

    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def facts_of_run() -> dict[str, Any]:
    """Machine, versions, commit and time."""
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "n_cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "load_average": os.getloadavg()[0],
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
