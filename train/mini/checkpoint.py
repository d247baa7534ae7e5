"""Checkpoints of a training run: one safetensors file with JSON in its header, renamed into place.

Everything that the next step depends on is in it: weights, their average, the optimizer's
moments, both random generators and the step, from which the order of the photos follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prolip_search.errors import TrainingError
from prolip_search.train.mini.config import TrainConfig

__all__ = ["read_checkpoint", "write_checkpoint"]

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def write_checkpoint(
    path: Path,
    config: TrainConfig,
    step: int,
    parameters: Mapping[str, Tensor],
    averaged: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    """Writes the state after `step` steps; the file of before stays until this one is whole."""
    tensors = {f"parameters.{name}": value.detach() for name, value in parameters.items()}
    tensors |= {f"averaged.{name}": value for name, value in averaged.items()}
    for name, value in parameters.items():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[value][moment]
    tensors["torch_rng"] = torch.get_rng_state()
    state = {"config": config.to_json(), "step": step, "numpy_rng": rng.bit_generator.state}
    unfinished = path.with_suffix(".part")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        unfinished,
        metadata={"state": json.dumps(state)},
    )
    unfinished.replace(path)


def read_checkpoint(
    path: Path,
    config: TrainConfig,
    parameters: Mapping[str, Tensor],
    averaged: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> int:
    """Puts everything back as it was and gives the number of steps done. Raises TrainingError."""
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            if state["config"] != config.to_json():
                raise TrainingError(
                    f"{path} is of a run with another configuration "
                    f"({_difference(state['config'], config.to_json())}); resume with the same "
                    "recipe and seed, or train into another folder."
                )
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(file.get_tensor(f"parameters.{name}"))
                    averaged[name].copy_(file.get_tensor(f"averaged.{name}"))
                    optimizer.state[value] = {
                        moment: file.get_tensor(f"{moment}.{name}") for moment in MOMENTS
                    }
            torch.set_rng_state(file.get_tensor("torch_rng"))
        rng.bit_generator.state = state["numpy_rng"]
        return int(state["step"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(
            f"{path} cannot be read ({error}); delete it, or run with --resume never."
        ) from error


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for key in wanted:
        if found.get(key) != wanted[key]:
            return f"{key} = {found.get(key)!r} there, {wanted[key]!r} here"
    return "keys differ"
