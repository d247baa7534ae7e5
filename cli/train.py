"""`prolip-search train`: an encoder from captioned photos, by a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolip_search.cli.terminal import note

if TYPE_CHECKING:
    from rich.progress import TaskID

    from prolip_search.train.adapter.config import AdapterTrainConfig
    from prolip_search.train.mini.config import TrainConfig
    from prolip_search.train.mini.loop import Step
    from prolip_search.train.mini.training import TrainingResult
    from prolip_search.train.towers.config import TowersConfig
    from prolip_search.train.towers.loop import Step as TowersStep


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe by name, or a .toml file.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Captioned photos: a Parquet, CSV, JSON or JSON-lines file, shards (also a URL), "
            "or a folder with train.parquet and val.parquet (columns id, captions, image). Not "
            "needed where the recipe names its data.paths.",
            show_default=False,
        ),
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            help="Captioned photos to measure retrieval on; val.parquet beside the training data "
            "if not given. Not for mini, which wants both in one folder.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints, logs and the encoder; RECIPE-trained if not given.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another value for a key of the recipe, such as optimizer.learning_rate=1e-4; "
            "may be given often.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Instead of the recipe's.", show_default=False)
    ] = None,
    resume: Annotated[
        str,
        typer.Option(help="auto: go on from the last checkpoint in OUT. never: begin anew."),
    ] = "never",
    features: Annotated[
        Path | None,
        typer.Option(
            help="mini and adapters: folder for the frozen networks' outputs, which runs on the "
            "same data can share; OUT/features if not given. For mini about 450 KB a photo.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train an encoder on captioned photos: a recipe, and what you change of it."""
    from prolip_search.errors import ConfigError

    if resume not in ("auto", "never"):
        raise ConfigError(f"--resume {resume} is neither auto nor never.")
    # torch, and all that comes with it: not before the options have been understood
    from prolip_search.train.adapter.config import AdapterTrainConfig
    from prolip_search.train.mini.config import TrainConfig as MiniConfig
    from prolip_search.train.recipes import read_recipe

    changes = [*(settings or []), *([] if seed is None else [f"seed={seed}"])]
    config = read_recipe(recipe, changes)
    out = out or Path(f"{Path(recipe).stem}-trained")
    if not isinstance(config, MiniConfig | AdapterTrainConfig):
        return _train_towers(config, data, val, out, resume=resume == "auto")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{recipe} trains in one process; start it without torchrun.")
    if data is None:
        raise ConfigError("--data is missing: the photos and captions to train on.")
    if isinstance(config, MiniConfig):
        _train_mini(config, Path(data), out, resume=resume == "auto", features=features)
    else:
        _train_adapter(config, Path(data), val, out, resume=resume == "auto", features=features)


def _train_mini(
    config: TrainConfig, data: Path, out: Path, *, resume: bool, features: Path | None
) -> None:
    from prolip_search.train.mini.training import train_mini

    with _Bars() as bars:
        result = train_mini(
            config,
            data,
            out,
            resume=resume,
            cache=features,
            progress=bars.progress,
            report=bars.report,
        )
    _print_result(result)


def _train_adapter(
    config: AdapterTrainConfig,
    data: Path,
    val: Path | None,
    out: Path,
    *,
    resume: bool,
    features: Path | None,
) -> None:
    from prolip_search.train.adapter.training import train_adapter

    with _Bars() as bars:
        result = train_adapter(
            config,
            data,
            out,
            val=val,
            resume=resume,
            cache=features,
            progress=bars.progress,
            report=bars.report,
        )
    if result.skipped:
        note(f"{len(result.skipped)} photos were left out, the first: {result.skipped[0].key}")
    for name, value in result.val.items():
        print(f"val {name}: {value:.4g}")
    print(f"config.json and heads.safetensors are in {result.folder}")


def _train_towers(
    config: TowersConfig, data: str | None, val: Path | None, out: Path, *, resume: bool
) -> None:
    from prolip_search.train.towers.distributed import open_processes
    from prolip_search.train.towers.training import train_prolip, with_data

    config, val = with_data(config, data, val)
    with (
        open_processes(config.execution) as processes,
        _Bars(visible=processes.is_main) as bars,
    ):
        result = train_prolip(
            config,
            out,
            val=val,
            resume=resume,
            processes=processes,
            report=bars.report,
            note=bars.note,
        )
    if not processes.is_main:
        return
    if result.skipped.count:
        note(str(result.skipped))
    for name, value in result.val.items():
        print(f"val {name}: {value:.4g}")
    print(f"config.json, model.safetensors and tokenizer.json are in {result.folder}")


class _Bars:
    """A bar for each stage, on stderr."""

    def __init__(self, *, visible: bool = True) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not visible,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tasks:
            self._bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of the rows of one kind have gone through the frozen networks."""
        self._bars.update(self._task(what, total), completed=done)

    def report(self, step: Step | TowersStep) -> None:
        """One training step is done."""
        self._bars.update(
            self._task("training", step.n_steps),
            completed=step.step,
            description=f"training, loss {step.losses['total']:.3f}",
        )

    def note(self, line: str) -> None:
        """Something to know, above the bars."""
        self._bars.console.print(line, markup=False, highlight=False)

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._bars.start()  # not before: bars that show nothing leave an empty line
            self._tasks[name] = self._bars.add_task(name, total=total)
        return self._tasks[name]


def _print_result(result: TrainingResult) -> None:
    for name, recalls in result.val.items():
        t2i = " / ".join(f"{value:.1f}" for value in recalls.t2i)
        i2t = " / ".join(f"{value:.1f}" for value in recalls.i2t)
        print(f"val by {name}: text→image {t2i}, image→text {i2t}, sum {recalls.rsum:.1f}")
    print(f"heads.safetensors and config.json are in {result.folder}")
    print(f"fingerprint {result.config.fingerprint}")
