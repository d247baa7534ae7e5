"""A function run in several processes that talk over gloo; what each of them returns."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

PATIENCE_S = 120.0  # before a process counts as hung; a failing one ends all at once


def in_processes(n: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of n processes, by rank.

    Raises AssertionError with the traceback of the first that failed.
    """
    # Forked from a process that has imported torch and started no threads: quick and safe
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prolip_search.train.towers.distributed"])
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(n):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(rank, n, Path(folder), theirs, function, arguments)
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            return [_answer(pipe) for pipe in pipes]
        finally:
            for process in processes:
                process.join(timeout=5)
                process.kill()


def _answer(pipe: Connection) -> Any:
    assert pipe.poll(PATIENCE_S), "a process says nothing"
    succeeded, answer = pipe.recv()
    assert succeeded, answer
    return tree_map_only(np.ndarray, torch.from_numpy, answer)


def _work(
    rank: int,
    n: int,
    folder: Path,
    pipe: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(folder / "store"), n),
            rank=rank,
            world_size=n,
            timeout=timedelta(seconds=60),
        )
        # A tensor would travel as memory that is gone when the process is
        answer = tree_map_only(Tensor, Tensor.numpy, function(*arguments))
        pipe.send((True, answer))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # noqa: BLE001 - the test that waits must hear of everything
        pipe.send((False, traceback.format_exc()))
