"""Checkpoints: one safetensors file each with JSON in its header, whole or not there.

Everything that the next step depends on is in it: weights, their average, the optimizer's
moments, where each process's data stands, the random states and the step. A file is written under
another name, brought to the disk and renamed; the one before stays until then. A checksum of every
tensor tells a damaged file from a whole one.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import subprocess
import zlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import prolip_search
from prolip_search.errors import TrainingError
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.towers.config import LoopConfig
from prolip_search.train.towers.divergence import DivergenceWatch
from prolip_search.train.towers.processes import Processes

__all__ = ["BatchSource", "Checkpoints", "RunState", "read_whole"]

logger = logging.getLogger(__name__)

FORMAT = 1
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
NAME = re.compile(r"step-(\d{9})\.safetensors")
# What may differ between the run of a checkpoint and the one that goes on from it.
HARMLESS = (
    "checkpoints", "divergence", "execution", "validation_every",
    "data.paths", "data.images", "data.threads",  # the loader knows its data again by itself
)  # fmt: skip


class BatchSource(Protocol):
    """This process's batches, one after the other without end, from where they stand."""

    def __iter__(self) -> Generator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where the batches stand, JSON-ready: after the last one that was handed out."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""

    def take_over(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Goes on where another number of processes stood, the states of all of them by rank."""


@dataclass
class RunState:
    """What changes as a run goes on."""

    step: int  # steps done
    parameters: Mapping[str, nn.Parameter]
    averaged: Mapping[str, Tensor]  # empty where no average is kept
    optimizer: torch.optim.Optimizer
    batches: BatchSource
    watch: DivergenceWatch


class Checkpoints:
    """The checkpoints of one run, in `folder`, named by their step."""

    def __init__(self, folder: Path, config: LoopConfig, processes: Processes) -> None:
        self._folder = folder
        self._config = config
        self._processes = processes

    def found(self) -> list[Path]:
        """What there is, newest first."""
        files = [path for path in self._folder.glob("*") if NAME.fullmatch(path.name)]
        return sorted(files, reverse=True)

    def write(self, state: RunState, *, last: bool = False) -> None:
        """Keeps the state; older checkpoints beyond the newest few go.

        A disk without room costs a warning and the checkpoint, of the last one a TrainingError.
        """
        own = {**_random_states(), "batches": state.batches.state_dict()}
        ranks = self._processes.gather(own)
        tensors = self._tensors(state)
        if not self._processes.is_main:
            return
        path = self._folder / f"step-{state.step:09d}.safetensors"
        header = {
            "format": FORMAT,
            "step": state.step,
            "config": self._config.to_json(),
            "version": prolip_search.__version__,
            "commit": commit(),
            "recent": state.watch.recent,
            "ranks": ranks,
            "checksums": {name: _checksum(value) for name, value in tensors.items()},
        }
        try:
            _write_whole(path, tensors, header)
        except (OSError, SafetensorError) as error:
            kept = self.found()
            stays = f"{kept[0].name} stays the newest" if kept else "there is none yet"
            told = f"The checkpoint of step {state.step} cannot be written ({error}); {stays}."
            if last:
                raise TrainingError(
                    f"{told} Make room in {self._folder} and run again with --resume auto."
                ) from error
            logger.warning("%s The run goes on and tries again at the next one.", told)
            return
        for old in self.found()[self._config.checkpoints.keep :]:
            old.unlink(missing_ok=True)

    def restore(self, state: RunState) -> bool:
        """Puts the newest whole checkpoint back; False where there is none.

        Damaged ones are passed over with a warning. Raises TrainingError when the checkpoint is of
        another configuration or of another number of processes.
        """
        for path in self.found():
            try:
                header, tensors = read_whole(path)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s is damaged (%s); taking the one before.", path, error)
                continue
            self._check(path, header, tensors, state)
            self._put_back(header, tensors, state)
            return True
        return False

    def _tensors(self, state: RunState) -> dict[str, Tensor]:
        tensors = {f"parameters.{name}": value.detach() for name, value in state.parameters.items()}
        tensors |= {f"averaged.{name}": value for name, value in state.averaged.items()}
        for name, value in state.parameters.items():
            for moment in MOMENTS:
                if value in state.optimizer.state:
                    tensors[f"{moment}.{name}"] = state.optimizer.state[value][moment]
        kept = {}
        for name, tensor in tensors.items():
            whole = self._processes.whole(tensor)  # every process takes part
            if self._processes.is_main:
                kept[name] = whole.to("cpu").contiguous()
        return kept

    def _check(
        self, path: Path, header: dict[str, Any], tensors: Mapping[str, Tensor], state: RunState
    ) -> None:
        difference = _difference(header["config"], self._config.to_json())
        if difference:
            raise TrainingError(
                f"{path} is of a run with another configuration ({difference}); resume with the "
                "same recipe and settings, or train into another folder."
            )
        missing = [name for name in state.parameters if f"parameters.{name}" not in tensors]
        if missing:
            raise TrainingError(
                f"{path} is of another model (it lacks {missing[0]}); train into another folder."
            )

    def _put_back(
        self, header: dict[str, Any], tensors: Mapping[str, Tensor], state: RunState
    ) -> None:
        like = self._processes.like
        with torch.no_grad():
            for name, value in state.parameters.items():
                value.copy_(like(value, tensors[f"parameters.{name}"]))
                if name in state.averaged:
                    state.averaged[name].copy_(like(value, tensors[f"averaged.{name}"]))
                if f"step.{name}" in tensors:
                    state.optimizer.state[value] = {
                        "exp_avg": like(value, tensors[f"exp_avg.{name}"]),
                        "exp_avg_sq": like(value, tensors[f"exp_avg_sq.{name}"]),
                        "step": tensors[f"step.{name}"],  # AdamW has it on the CPU
                    }
        ranks = header["ranks"]
        if len(ranks) == self._processes.world_size:
            own = ranks[self._processes.rank]
            state.batches.load_state_dict(own["batches"])
            _restore_random_states(own)
        else:
            state.batches.take_over([rank["batches"] for rank in ranks])
        state.watch.restore(header["recent"])
        state.step = int(header["step"])


def commit() -> str | None:
    """The commit of the checkout that this code runs from; None outside of one."""
    folder = Path(prolip_search.__file__).parent
    try:
        ran = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return ran.stdout.strip()


def _write_whole(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    try:
        save_file(dict(tensors), unfinished, metadata={"state": json.dumps(header)})
        _to_disk(unfinished)
        unfinished.replace(path)
        _to_disk(path.parent)  # the new name, too
    finally:
        unfinished.unlink(missing_ok=True)


def read_whole(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors. Raises ValueError where a checksum is not that of its tensor."""
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["state"])
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}, not {FORMAT}")
        tensors = {}
        for name, checksum in header["checksums"].items():
            tensor = file.get_tensor(name)
            if _checksum(tensor) != checksum:
                raise ValueError(f"the checksum of {name} is wrong")
            tensors[name] = tensor
    return header, tensors


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _random_states() -> dict[str, Any]:
    """The states of every generator that code may draw from without being asked, JSON-ready."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # kept, not drawn from
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
        "numpy": [name, keys.tolist(), *rest],  # type: ignore[union-attr]  # an array
        "python": [version, list(numbers), gauss],
    }


def _restore_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(states["cuda"], dtype=torch.uint8))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002  # as it was
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))


def _difference(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """The first setting that decides the outcome and is another one; empty where none is."""
    for key in {**now, **then}:
        if f"{prefix}{key}" in HARMLESS:
            continue
        old, new = then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = _difference(old, new, f"{prefix}{key}.")
            if inner:
                return inner
        elif old != new:
            return f"{prefix}{key} = {old!r} there, {new!r} here"
    return ""
