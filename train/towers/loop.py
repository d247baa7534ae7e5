"""The training loop: one straight line from batches to weights.

A run can be stopped at any moment and goes on from its last checkpoint, to the bit on a CPU with
the same number of threads. What is drawn at random at a step follows from seed, step and process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prolip_search.errors import ConfigError, TrainingDataError, TrainingError
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.towers.checkpoint import BatchSource, Checkpoints, RunState
from prolip_search.train.towers.config import LoopConfig
from prolip_search.train.towers.divergence import DivergenceWatch
from prolip_search.train.towers.execution import prepare_execution
from prolip_search.train.towers.forms import Masking
from prolip_search.train.towers.forward import Outputs, Towers
from prolip_search.train.towers.gradients import Objective, backward
from prolip_search.train.towers.logs import RunLogs
from prolip_search.train.towers.optimization import (
    LARGEST_LOG_SCALE,
    make_optimizer,
    schedule,
    update_average,
)
from prolip_search.train.towers.processes import Processes

__all__ = ["Step", "Validate", "train_towers"]

Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Step:
    """One step, for whoever watches."""

    step: int
    n_steps: int
    losses: Mapping[str, float]


def train_towers(
    config: LoopConfig,
    model: nn.Module,
    batches: BatchSource,
    mask: Masking,
    out: Path,
    *,
    processes: Processes,
    resume: bool = False,
    validate: Validate | None = None,
    report: Callable[[Step], None] = lambda step: None,
) -> nn.Module:
    """Trains a `GaussianModel` and gives it back, with averaged weights where asked for.

    It is trained in place; only where its weights are shared out over processes is what comes back
    another module, with whole weights in the process that writes.
    batches: this process's share of each step, batch_size / processes pairs. Writes logs and
    checkpoints into `out`; with `resume` it goes on from the newest whole checkpoint there.
    validate: measures the model every `validation_every` steps and at the end. Raises TrainingError
    when the run diverges, when `out` holds another run, and when the last checkpoint does not fit.
    """
    n_pairs = pairs_per_process(config, processes)
    checkpoints = Checkpoints(out / "checkpoints", config, processes)
    refuse_to_overwrite(out, checkpoints, resume=resume)
    model.to(processes.device).train()
    prepare_execution(model, config.execution)
    towers = processes.wrap(Towers(model, precision=config.execution.precision))
    state = first_state(config, model, batches, out)
    torch.manual_seed(config.seed + processes.rank)  # for what draws without being asked
    if resume:
        checkpoints.restore(state)
    objective = Objective(config, processes.ppcl)
    clip_norm = config.optimizer.clip_norm or float("inf")

    with RunLogs(out, state.step, writes=processes.is_main) as logs, closing(iter(batches)) as feed:
        while state.step < config.n_steps:
            started = time.perf_counter()
            batch = next_batch(feed, n_pairs).to(processes.device)
            waited_s = time.perf_counter() - started
            rate = set_learning_rate(state.optimizer, config, state.step)

            forms = mask(batch, step_generator(config.seed, state.step, processes.rank))
            terms, outputs = backward(
                towers, forms, objective, processes, n_parts=config.execution.accumulation
            )
            norm = processes.clip_norm(list(state.parameters.values()), clip_norm)
            values = measured(terms, outputs, norm, processes)
            state.watch.check(state.step + 1, values["total"], values["gradient_norm"], batch.keys)

            state.optimizer.step()
            state.optimizer.zero_grad()
            with torch.no_grad():
                state.parameters["logit_scale"].clamp_(0, LARGEST_LOG_SCALE)
            update_average(state.averaged, state.parameters, state.step, config.optimizer.ema_decay)
            state.step += 1

            logs.add("log", {"step": state.step, "learning_rate": rate, **values})
            took_s = time.perf_counter() - started
            logs.add("timings", timing(state.step, config.batch_size, took_s, waited_s))
            last = state.step == config.n_steps
            if validate and (last or is_due(state.step, config.validation_every)):
                with averaged_weights(state):
                    figures = validate(processes.gathered(model).eval())
                    logs.add("validation", {"step": state.step, **figures})
                model.train()
            # After the validation: a run that goes on from here must not have it before it.
            if last or is_due(state.step, config.checkpoints.every):
                checkpoints.write(state, last=last)
            report(Step(state.step, config.n_steps, values))

    with torch.no_grad():
        for name, value in state.averaged.items():
            state.parameters[name].copy_(value)
    return processes.gathered(model).eval()


def pairs_per_process(config: LoopConfig, processes: Processes) -> int:
    """This process's share of a batch. Raises ConfigError where it cannot be cut so."""
    n_parts = processes.world_size * config.execution.accumulation
    if config.batch_size % n_parts:
        raise ConfigError(
            f"batch_size = {config.batch_size} cannot be cut into {n_parts} equal parts "
            f"({processes.world_size} processes, execution.accumulation = "
            f"{config.execution.accumulation})."
        )
    return config.batch_size // processes.world_size


def refuse_to_overwrite(out: Path, checkpoints: Checkpoints, *, resume: bool) -> None:
    """Makes the folder; TrainingError where it is a file, or holds a run that was not asked for."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{out} cannot be trained into ({error}); give a folder.") from error
    found = checkpoints.found()
    if found and not resume:
        raise TrainingError(
            f"{out} holds a run already ({found[0].name}); go on with it by --resume auto, or "
            "train into another folder."
        )


def first_state(config: LoopConfig, model: nn.Module, batches: BatchSource, out: Path) -> RunState:
    """The state before the first step."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    averaged: dict[str, Tensor] = {}
    if config.optimizer.ema_decay > 0:
        averaged = {name: value.detach().clone() for name, value in parameters.items()}
    return RunState(
        step=0,
        parameters=parameters,
        averaged=averaged,
        optimizer=make_optimizer(parameters, config.optimizer),
        batches=batches,
        watch=DivergenceWatch(config.divergence, out),
    )


def next_batch(feed: Iterator[Batch], n_pairs: int) -> Batch:
    """The next batch. Raises TrainingDataError where there is none, or one of another size."""
    batch = next(feed, None)
    if batch is None or len(batch) != n_pairs:
        found = "the data ended" if batch is None else f"it had {len(batch)}"
        raise TrainingDataError(
            f"A step takes {n_pairs} pairs, but {found}; lower batch_size in the recipe."
        )
    return batch


def set_learning_rate(optimizer: torch.optim.Optimizer, config: LoopConfig, step: int) -> float:
    """Sets and gives the learning rate of a step, counted from 0."""
    share = schedule(step, config.n_steps, config.optimizer.warmup_steps)
    rate = config.optimizer.learning_rate * share
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The randomness of one step of one process, whether the run was interrupted or not."""
    words = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]))


def measured(
    terms: Mapping[str, Tensor], outputs: Outputs, norm: Tensor, processes: Processes
) -> dict[str, float]:
    """The numbers of a step, the means over all processes: `total` and its terms first."""
    values = dict(terms)
    values["uncertainty_image"] = outputs.image_log_variance.exp().sum(dim=1).mean()
    values["uncertainty_text"] = outputs.text_log_variance.exp().sum(dim=1).mean()
    values["logit_scale"] = outputs.logit_scale.exp()
    if outputs.logit_bias is not None:
        values["logit_bias"] = outputs.logit_bias
    values["gradient_norm"] = norm
    together = torch.stack([value.detach().float() for value in values.values()])
    return dict(zip(values, processes.mean(together).tolist(), strict=True))


@contextmanager
def averaged_weights(state: RunState) -> Iterator[None]:
    """The averaged weights in place of those in training, where an average is kept."""
    kept = {name: state.parameters[name].detach().clone() for name in state.averaged}
    with torch.no_grad():
        for name, value in state.averaged.items():
            state.parameters[name].copy_(value)
        try:
            yield
        finally:
            for name, value in kept.items():
                state.parameters[name].copy_(value)


def timing(step: int, n_pairs: int, took_s: float, waited_s: float) -> dict[str, float]:
    """What the machine made of a step: pairs a second, and seconds spent waiting for data."""
    return {"step": step, "samples_per_second": n_pairs / took_s, "waited_for_data_s": waited_s}


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens now."""
    return every > 0 and step % every == 0
