"""AdamW with the published groups, the published schedule, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prolip_search.train.towers.config import OptimizerConfig

__all__ = ["LARGEST_LOG_SCALE", "make_optimizer", "schedule", "update_average"]

LARGEST_LOG_SCALE = math.log(100)  # logit_scale is kept within [0, ln 100] after every step
UNDECAYED_NAMES = ("bn", "ln", "bias", "logit_scale")


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig
) -> torch.optim.AdamW:
    """AdamW over what decays, and what does not (vectors, norms, the match logit).

    Embeddings and positions do decay. parameters: by their released names. The match logit has a
    group of its own: it stays whole where weights are shared out, and AdamW takes no mixture.
    """
    undecayed = [p for name, p in parameters.items() if not decays(name, p)]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in parameters.items() if decays(name, p)]},
        {"params": [p for p in undecayed if p.ndim > 0], "weight_decay": 0.0},
        {"params": [p for p in undecayed if p.ndim == 0], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls at a parameter."""
    return parameter.ndim >= 2 and not any(part in name for part in UNDECAYED_NAMES)


def schedule(step: int, n_steps: int, n_warmup: int) -> float:
    """Share of the learning rate at a step, counted from 0: linear warm-up, a cosine to 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


@torch.no_grad()
def update_average(
    averaged: Mapping[str, Tensor], parameters: Mapping[str, Tensor], step: int, decay: float
) -> None:
    """Moves the average towards the weights after the step of that number, counted from 0."""
    # At the start the average must forget the initial weights faster than it will later.
    decay = min(decay, (step + 1) / (step + 11))
    for name, value in averaged.items():
        value.lerp_(parameters[name].detach(), 1 - decay)
