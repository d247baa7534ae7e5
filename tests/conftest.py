"""Fixtures that many tests share: few, and made of real things."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from prolip_search.gaussians import Gaussians

# No test asserts a time, Hypothesis's own deadline included: a busy machine is not a defect.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches beyond this machine: an attempt fails at once instead of being unused."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX:
            return connect(self, address)  # type: ignore[arg-type]  # as the caller gave it
        host = address[0] if isinstance(address, tuple) else address
        if host in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)  # type: ignore[arg-type]  # as the caller gave it
        raise OSError(f"network is blocked in tests: {address!r}")

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def namespace() -> list[str]:
    """The beginning of a command that may mount file systems of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, of util-linux")
    command = ["unshare", "--map-root-user", "--mount"]
    probe = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs in a namespace")
    return command


def _shared(name: str) -> Path:
    """A folder of the material that lies beside the checkout and is never committed."""
    beside = os.environ.get("PROLIP_SEARCH_SHARED")
    folder = Path(beside) if beside else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / name).is_dir():
        pytest.skip(
            f"needs {name}/ of the shared material (set PROLIP_SEARCH_SHARED to its folder)"
        )
    return folder / name


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos with human captions (Parquet files, photos/, photos.jsonl)."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Numbers that the official ProLIP implementation gives."""
    return _shared("reference")


def make_gaussians(
    n: int, dim: int, seed: int, *, spread: tuple[float, float] = (-8, -3)
) -> Gaussians:
    """n seeded Gaussians with log-variances uniform in `spread`."""
    rng = np.random.default_rng(seed)
    return Gaussians.from_raw(rng.normal(size=(n, dim)), rng.uniform(*spread, size=(n, dim)))
