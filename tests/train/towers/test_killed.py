"""A run that is killed at any moment, and goes on, ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.mini.synthetic import write_split

CHECKOUT = Path(__file__).resolve().parents[3]


def train_and_kill(data: Path, out: Path, n_kills: int, seed: int) -> list[dict[str, int]]:
    command = [sys.executable, "-m", "tests.train.towers.killing", data, out, n_kills, seed]
    ended = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=CHECKOUT
    )
    assert ended.returncode == 0, ended.stderr
    attempts = [json.loads(line) for line in ended.stdout.splitlines()]
    assert attempts[-1]["status"] == 0, ended.stderr
    return attempts


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_run_ends_the_same_to_the_bit(seed: int, tmp_path: Path) -> None:
    write_split(tmp_path, "train", 20)
    train_and_kill(tmp_path, tmp_path / "whole", 0, seed)
    attempts = train_and_kill(tmp_path, tmp_path / "killed", 5, seed)
    # Each attempt but the last was cut off, and not all of them at the same place.
    killed = [one for one in attempts[:-1] if one["status"] == signal.SIGKILL]
    assert len(killed) >= 4
    assert len({one["to"] for one in killed}) > 1
    for name in ("log.jsonl", "encoder/model.safetensors", "encoder/tokenizer.json"):
        whole, cut = ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))
        assert whole == cut, name
    assert (tmp_path / "whole" / "log.jsonl").read_bytes().count(b"\n") == 60
