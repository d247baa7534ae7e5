"""A program that trains and is killed, again and again: of test_killed.py.

    python -m tests.train.towers.killing DATA OUT N_KILLS SEED

Each attempt is a process of its own that resumes what is there; it is killed (SIGKILL) at a moment
that the seed chooses, a few steps on and anywhere within one. The last attempt is left alone.
Printed is a JSON line for each attempt: where it began and where it ended.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from prolip_search.train.towers.training import train_prolip
from tests.train.towers.tiny import photo_config

LONGEST_STEP_S = 0.05


def n_logged(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def attempt(data: Path, out: Path) -> int:
    """A process that trains on; its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)
        config = photo_config(
            data,
            seen_samples=480,
            checkpoints={"every": 3, "keep": 2},
            optimizer={"ema_decay": 0.9},
            execution={"accumulation": 2},
        )
        train_prolip(config, out, resume=True)
        status = 0
    except BaseException:  # noqa: BLE001  # told to the test, whatever it is
        traceback.print_exc()
    finally:
        os._exit(status)


def tell(began: int, ended: int, status: int) -> None:
    sys.stdout.write(json.dumps({"from": began, "to": ended, "status": status}) + "\n")
    sys.stdout.flush()


def main(data: Path, out: Path, n_kills: int, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(n_kills):
        before = n_logged(out)
        pid = attempt(data, out)
        target = before + draw.randint(1, 12)
        while (
            n_logged(out) < target
            and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.002)
            if n_logged(out) < before:  # lines after the checkpoint are gone and come again
                before = n_logged(out)
                target = before + draw.randint(1, 12)
        time.sleep(draw.random() * LONGEST_STEP_S)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        tell(before, n_logged(out), status)
    _, status = os.waitpid(attempt(data, out), 0)
    tell(n_logged(out), n_logged(out), status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
