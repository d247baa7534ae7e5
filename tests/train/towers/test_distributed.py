"""Towers trained by several processes are those that one process makes of the joint batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from prolip_search.train.datasets.batches import Batch
from prolip_search.train.recipes import read_recipe
from prolip_search.train.towers.config import ExecutionConfig, TowersConfig
from prolip_search.train.towers.distributed import (
    DistributedProcesses,
    ShardedProcesses,
    open_processes,
)
from prolip_search.train.towers.forms import Forms
from prolip_search.train.towers.forward import Towers
from prolip_search.train.towers.gradients import Objective, backward
from prolip_search.train.towers.loop import train_towers
from prolip_search.train.towers.optimization import make_optimizer
from prolip_search.train.towers.processes import Processes
from prolip_search.train.towers.training import train_prolip, with_data
from tests.train.in_processes import in_processes
from tests.train.mini.synthetic import write_split
from tests.train.towers.tiny import (
    MODEL,
    DrawnBatches,
    drawn_batch,
    tiny_config,
    tiny_masking,
    tiny_model,
    tiny_run,
)

ROOT = Path(__file__).parents[3]
N_PAIRS, N_STEPS = 24, 2
KINDS = (DistributedProcesses, ShardedProcesses)
WAYS = [(kind, n_parts) for kind in KINDS for n_parts in (1, 2)]
CLOSE = {"rtol": 1e-3, "atol": 2e-5}  # float32, sums in another order
# AdamW divides by the moments: where a gradient is 0 but for rounding, as that of the bias of keys
# is, every process count would make weights of its own without something larger beside them
EPS = 1e-3


def shares(rank: int, world: int, step: int) -> Forms:
    """A process's part of a batch whose every pair has masked forms, with the same patches kept."""
    batch = drawn_batch(N_PAIRS, step)
    rows = slice(rank * N_PAIRS // world, (rank + 1) * N_PAIRS // world)
    pixels, ids = batch.pixels[rows], batch.ids[rows]
    masked_ids = torch.where(torch.arange(ids.shape[1]) % 2 == 0, 39, ids)
    return Forms(pixels, ids, pixels, torch.tensor([0, 3, 5, 9]), masked_ids)


def trained(processes: Processes, n_parts: int) -> dict[str, Tensor]:
    """Weights after two clipped steps of AdamW, the gradient's norms, the losses."""
    config = tiny_config(loss={"vib": 0.01})
    model = tiny_model().train()
    towers = processes.wrap(Towers(model))
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(parameters, replace(config.optimizer, eps=EPS))
    results: dict[str, Tensor] = {}
    for step in range(N_STEPS):
        forms = shares(processes.rank, processes.world_size, step)
        terms, _ = backward(
            towers, forms, Objective(config, processes.ppcl), processes, n_parts=n_parts
        )
        results[f"norm {step}"] = processes.clip_norm(list(parameters.values()), 0.5).detach()
        optimizer.step()
        optimizer.zero_grad()
        together = processes.mean(torch.stack(list(terms.values())))
        results |= {f"{name} {step}": value for name, value in zip(terms, together, strict=True)}
    return results | {name: processes.whole(value.detach()) for name, value in parameters.items()}


def _trained_in_each_way() -> list[dict[str, Tensor]]:
    return [trained(kind("cpu"), n_parts) for kind, n_parts in WAYS]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_steps_of_several_processes_are_those_of_one_with_the_joint_batch(world: int) -> None:
    """With whole and with shared weights, with and without accumulation, masked forms and all."""
    expected = trained(Processes("cpu"), n_parts=1)
    for of_rank in in_processes(world, _trained_in_each_way):
        for way, got in zip(WAYS, of_rank, strict=True):
            assert_close(got, expected, str(way))


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, **CLOSE, msg=lambda text, name=name: f"{what}: {name}: {text}"
        )


class _OwnShare(DrawnBatches):
    """This process's part of each drawn batch."""

    def __iter__(self) -> Iterator[Batch]:
        rank, world = dist.get_rank(), dist.get_world_size()
        for batch in super().__iter__():
            n = len(batch) // world
            rows = slice(rank * n, (rank + 1) * n)
            yield Batch(batch.pixels[rows], batch.ids[rows], batch.keys[rows])


CONFIG = tiny_config(
    batch_size=12,
    seen_samples=72,
    masking={"share_of_pairs": 0.0},
    optimizer={"ema_decay": 0.9, "clip_norm": 1.0, "eps": EPS},
    validation_every=3,
)


def _run(kind: type[DistributedProcesses], out: Path, n_steps: int) -> dict[str, Tensor]:
    """A run of the loop that ends after so many steps as if the machine had gone down."""

    def stop(step: Any) -> None:
        if step.step == n_steps:
            raise _MachineDown

    processes = kind("cpu")
    try:
        model = tiny_run_of(processes, out, report=stop, resume=True)
    except _MachineDown:
        return {}
    return model.state_dict() if processes.is_main else {}


def tiny_run_of(processes: Processes, out: Path, **options: Any) -> torch.nn.Module:
    """What the loop gives back, with the figures of a validation that looks at whole weights."""

    def validate(model: torch.nn.Module) -> dict[str, float]:
        return {"norm": weight_norm(model)} if processes.is_main else {}

    return train_towers(
        CONFIG,
        tiny_model(),
        _OwnShare(CONFIG.batch_size),
        tiny_masking(CONFIG),
        out,
        processes=processes,
        validate=validate,
        **options,
    )


def weight_norm(model: torch.nn.Module) -> float:
    return sum(float(p.detach().square().sum()) for p in model.parameters())


class _MachineDown(Exception):
    pass


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Path]:
    """The weights that one process makes of the whole batches, and its folder."""
    out = tmp_path_factory.mktemp("one")
    model = tiny_run(
        out,
        CONFIG,
        validate=lambda model: {"norm": weight_norm(model)},
        batches=DrawnBatches(CONFIG.batch_size),
    )
    return model.state_dict(), out


def lines(out: Path, name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("first", "n_first", "second", "n_second"),
    [
        (ShardedProcesses, 2, DistributedProcesses, 3),
        (DistributedProcesses, 2, ShardedProcesses, 1),
        (ShardedProcesses, 3, ShardedProcesses, 2),
    ],
)
def test_a_run_goes_on_with_another_number_of_processes_as_if_nothing_had_happened(
    of_one: tuple[dict[str, Tensor], Path],
    tmp_path: Path,
    first: type[DistributedProcesses],
    n_first: int,
    second: type[DistributedProcesses],
    n_second: int,
) -> None:
    expected, out_of_one = of_one
    in_processes(n_first, _run, first, tmp_path, 3)  # the last checkpoint is that of step 2
    weights = in_processes(n_second, _run, second, tmp_path, 0)[0]
    assert_close(weights, expected, "the model that comes back")
    for name in ("log", "validation"):
        ours, theirs = lines(tmp_path, name), lines(out_of_one, name)
        assert len(ours) == len(theirs)
        for line, other in zip(ours, theirs, strict=True):
            assert line == pytest.approx(other, rel=1e-3, abs=1e-5)
    stored = [sorted((out / "checkpoints").iterdir())[-1] for out in (tmp_path, out_of_one)]
    assert_close(*map(load_file, stored), "the last checkpoint")  # type: ignore[arg-type]  # two


def torchrun(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *arguments]
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )


RECIPE = """
trains = "towers"
seed = 3
batch_size = 8
seen_samples = 32
tokenizer = "train:40"
validation_every = 2
[model]
{model}
[masking]
share_of_pairs = 0.0
[optimizer]
learning_rate = 1e-3
eps = 1e-3
warmup_steps = 2
"""


def test_torchrun_trains_the_towers_that_one_process_trains(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 20)
    write_split(tmp_path, "val", 6)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(model=toml_of(MODEL)))
    options = ["train", str(recipe), "--data", str(tmp_path), "--out"]
    done = torchrun(2, "-m", "prolip_search.cli", *options, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model.safetensors") == 1
    torch.set_num_threads(1)
    config = read_recipe(str(recipe), [])
    assert isinstance(config, TowersConfig)
    config, val = with_data(config, tmp_path)
    # Pieces of equal merit may swap places between two trainings of a vocabulary
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "two/tokenizer.json", tmp_path / "one")
    train_prolip(config, tmp_path / "one", val=val)
    for ours, theirs in zip(
        lines(tmp_path / "two", "log"), lines(tmp_path / "one", "log"), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    weights = [load_file(tmp_path / name / "encoder/model.safetensors") for name in ("two", "one")]
    assert_close(*weights, "the exported towers")


ONE_FAILS = """
import sys
from prolip_search.cli.__main__ import main
from prolip_search.cli import train
from prolip_search.errors import TrainingError
from prolip_search.train.towers.config import ExecutionConfig
from prolip_search.train.towers.distributed import open_processes

def fails(*arguments, **options):
    with open_processes(ExecutionConfig(device="cpu")) as processes:
        processes.wait()
        if processes.rank == 1:
            raise TrainingError("The disk of rank 1 is full.")
        processes.wait()

train._train_towers = fails
sys.exit(main())
"""


def test_where_one_process_fails_all_end_and_it_is_told_once(tmp_path: Path) -> None:
    script, recipe = tmp_path / "fails.py", tmp_path / "tiny.toml"
    script.write_text(ONE_FAILS)
    recipe.write_text(RECIPE.format(model=toml_of(MODEL)))
    done = torchrun(3, str(script), "train", str(recipe), "--data", str(tmp_path))
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("prolip-search: ")]
    assert told == ["prolip-search: The disk of rank 1 is full."]
    assert f'File "{script}"' not in done.stderr  # torchrun's own traceback is all there is


def test_one_process_keeps_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_processes(ExecutionConfig(sharded=True, device="cpu")) as processes:
        assert processes.world_size == 1
        model = tiny_model()
        assert processes.gathered(model) is model


def toml_of(values: dict[str, Any]) -> str:
    """A table as lines, tables in it written in one line each."""

    def one(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {one(inner)}" for key, inner in value.items()) + "}"
        return json.dumps(value)

    return "\n".join(f"{key} = {one(value)}" for key, value in values.items())
