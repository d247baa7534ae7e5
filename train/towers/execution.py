"""How the towers are run: recomputed activations, compiled code. What comes out stays the same."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from prolip_search.encoders.prolip import ResidualBlock
from prolip_search.train.towers.config import ExecutionConfig

__all__ = ["prepare_execution"]


def prepare_execution(model: nn.Module, config: ExecutionConfig) -> None:
    """Changes how a model's blocks and towers run, in place; names of weights stay as they are."""
    if config.activation_checkpointing:
        for block in model.modules():
            if isinstance(block, ResidualBlock):
                # Each block keeps its input alone and runs again in the backward pass.
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]  # of this one block
    if config.compile:
        for tower in model.children():
            tower.compile()
