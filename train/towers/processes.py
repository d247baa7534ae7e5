"""The processes of a run: one here, and all that is otherwise in `distributed.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from prolip_search.errors import ConfigError
from prolip_search.train.losses import PairwiseLoss
from prolip_search.train.pairwise import blocked_ppcl_loss

__all__ = ["Processes"]

Value = TypeVar("Value")


class Processes:
    """A run of one process."""

    rank = 0
    world_size = 1

    def __init__(self, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:  # a torch without that device asserts
            raise ConfigError(
                f"execution.device = {device!r} cannot be used here ({str(error).splitlines()[0]})."
            ) from error

    @property
    def is_main(self) -> bool:
        """Whether this process writes: logs, checkpoints, the export."""
        return self.rank == 0

    @property
    def ppcl(self) -> PairwiseLoss:
        """PPCL over the pairs of all processes."""
        return blocked_ppcl_loss

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module whose gradients are those of all processes."""
        return towers

    @contextmanager
    def gradients_stay_here(self, towers: nn.Module, yes: bool) -> Iterator[None]:
        """Where `yes`, a backward pass in this context leaves gradients to a later one to share."""
        yield

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, in each of them."""
        return values

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, in order of rank, in each of them."""
        return [value]

    def whole(self, tensor: Tensor) -> Tensor:
        """The shares of all processes put together, where weights are shared out."""
        return tensor

    def like(self, tensor: Tensor, whole: Tensor) -> Tensor:
        """This process's share of a whole tensor, cut as `tensor` is and where that is."""
        return whole.to(tensor.device)

    def gathered(self, model: nn.Module) -> nn.Module:
        """The model with whole weights, in the process that writes; every process takes part."""
        return model

    def clip_norm(self, parameters: list[Tensor], largest: float) -> Tensor:
        """The norm of the whole gradient, before it is scaled down to `largest`."""
        return nn.utils.clip_grad_norm_(parameters, largest)

    def wait(self) -> None:
        """Until every process is here."""
