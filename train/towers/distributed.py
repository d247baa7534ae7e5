"""A run over several processes, as `torchrun` starts them: whole weights in each, or shares.

With whole weights (DDP) the processes average their gradients. With shares (FSDP2) each keeps a
part of every weight, gradient and moment, and a block's weights come together when it runs: what
the largest towers need. Either way the pairwise loss is that of the joint batch, and the one
process that writes is the first.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from prolip_search.encoders.prolip import ResidualBlock
from prolip_search.errors import ProlipSearchError, TrainingError
from prolip_search.train.losses import PairwiseLoss
from prolip_search.train.pairwise import distributed_ppcl_loss
from prolip_search.train.towers.config import ExecutionConfig
from prolip_search.train.towers.forward import Towers
from prolip_search.train.towers.processes import Processes

__all__ = ["DistributedProcesses", "ShardedProcesses", "open_processes"]

Value = TypeVar("Value")

# The first process may validate and write for long; one that is gone is noticed at once anyway
PATIENCE = timedelta(hours=2)
FAILED = "prolip-search/failed"


@contextmanager
def open_processes(execution: ExecutionConfig) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone; they part when the context ends.

    Where one fails the others end too. Its error is raised in it alone, so that it is told once;
    the others raise SystemExit(2). Raises ConfigError for a device that cannot be used.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(execution.device)
        return
    # Made here, so that a failure can still be told when the group is broken
    store, rank, world_size = next(rendezvous("env://"))
    device = _own_device(execution.device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    kind = ShardedProcesses if execution.sharded else DistributedProcesses
    try:
        yield kind(device, precision=execution.precision)
    except Exception as error:
        if not _is_first(store):
            raise SystemExit(2) from None
        if isinstance(error, RuntimeError) and not isinstance(error, ProlipSearchError):
            raise _explained(error) from error
        raise
    dist.destroy_process_group()


class DistributedProcesses(Processes):
    """Whole weights in every process, gradients averaged. The process group exists already."""

    def __init__(self, device: str, *, precision: str = "float32") -> None:
        super().__init__(device)
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._precision = precision
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    @property
    def ppcl(self) -> PairwiseLoss:
        """PPCL over the pairs of all processes."""
        return distributed_ppcl_loss

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The module whose gradients are the means over all processes; all begin as the first."""
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(towers, device_ids=devices, gradient_as_bucket_view=True)

    @contextmanager
    def gradients_stay_here(self, towers: nn.Module, yes: bool) -> Iterator[None]:
        """Where `yes`, a backward pass in this context leaves gradients to a later one to share."""
        assert isinstance(towers, DistributedDataParallel)
        if yes:
            with towers.no_sync():
                yield
        else:
            yield

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, in each of them."""
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def gather(self, value: Value) -> list[Value]:
        """The JSON-ready value of every process, in order of rank, in each of them."""
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(own)]))
        padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        padded[: len(own)] = own
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return [
            json.loads(bytes(row[: int(size)].tolist()))
            for row, size in zip(gathered, sizes, strict=True)
        ]

    def wait(self) -> None:
        """Until every process is here."""
        dist.all_reduce(torch.zeros(1, device=self.device))


class ShardedProcesses(DistributedProcesses):
    """A share of every weight in each process."""

    _blank: nn.Module  # the model without weights

    def wrap(self, towers: nn.Module) -> nn.Module:
        """The same module, its weights cut in place; all begin as the first process did."""
        for tensor in (*towers.parameters(), *towers.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        assert isinstance(towers, Towers)
        self._blank = copy.deepcopy(towers.model).to("meta")
        scalars = {parameter for parameter in towers.parameters() if parameter.ndim == 0}
        for scalar in scalars:  # too small to cut, so they are averaged by hand
            scalar.register_post_accumulate_grad_hook(self._average_gradient)  # type: ignore[no-untyped-call]  # torch's own
        policy = MixedPrecisionPolicy()
        if self._precision == "bf16":
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,  # autocast does
            )
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        shard = partial(fully_shard, mesh=mesh, mp_policy=policy)
        for block in towers.modules():
            if isinstance(block, ResidualBlock):
                shard(block)
        shard(towers, ignored_params=scalars)
        return towers

    @contextmanager
    def gradients_stay_here(self, towers: nn.Module, yes: bool) -> Iterator[None]:
        """Where `yes`, a backward pass in this context leaves gradients to a later one to share."""
        assert isinstance(towers, FSDPModule)
        towers.set_requires_gradient_sync(not yes)
        yield

    def whole(self, tensor: Tensor) -> Tensor:
        """The shares of all processes put together, in each of them."""
        whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return whole

    def like(self, tensor: Tensor, whole: Tensor) -> Tensor:
        """This process's share of a whole tensor, cut as `tensor` is and where that is."""
        if not isinstance(tensor, DTensor):
            return super().like(tensor, whole)
        # Every process has the whole, so nobody has to send anything
        return distribute_tensor(
            whole.to(self.device), tensor.device_mesh, tensor.placements, src_data_rank=None
        )

    def gathered(self, model: nn.Module) -> nn.Module:
        """A copy with whole weights, on the CPU; in processes that do not write the model."""
        weights = {}
        for name, tensor in model.state_dict().items():
            whole = self.whole(tensor.detach())
            if self.is_main:
                weights[name] = whole.to("cpu", copy=True)
        if not self.is_main:
            return model
        plain = copy.deepcopy(self._blank)
        plain.load_state_dict(weights, assign=True)
        return plain

    def clip_norm(self, parameters: list[Tensor], largest: float) -> Tensor:
        """The norm of the whole gradient, before it is scaled down to `largest`."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = [self.whole(torch.linalg.vector_norm(gradient)) for gradient in gradients]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch's own clipping has it
        for gradient in gradients:
            local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            local.mul_(factor)
        return norm

    def _average_gradient(self, parameter: Tensor) -> None:
        # What was averaged before stays as it is: it is the same in every process.
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world_size


def _own_device(device: str) -> str:
    """The GPU that is this process's among those of its machine."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _is_first(store: Any) -> bool:
    """Whether no other process has failed before this one."""
    try:
        return int(store.add(FAILED, 1)) == 1
    except RuntimeError:
        return False  # the process that kept the store is gone: it was the first


def _explained(error: RuntimeError) -> Exception:
    """A broken connection means that another process ended without a word; others stay."""
    text = str(error)
    is_of_group = isinstance(error, dist.DistError) or "gloo" in text.lower() or "NCCL" in text
    if not is_of_group:
        return error
    return TrainingError(
        f"Another process of this run ended without a word ({text.splitlines()[0]}); was it killed "
        "for want of memory? Go on with --resume auto."
    )
