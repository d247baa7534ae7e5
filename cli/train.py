"""`prolip-search train`: makes the heads of the bundled encoder from captioned photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

    from prolip_search.train.mini.loop import Step
    from prolip_search.train.mini.training import TrainingResult


def train(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with train.parquet and val.parquet (columns id, captions, image).",
            show_default=False,
        ),
    ],
    recipe: Annotated[str, typer.Option(help="A recipe by name, or a .toml file.")] = "mini",
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoint, log, heads.safetensors and config.json.")
    ] = Path("mini-trained"),
    seed: Annotated[
        int | None, typer.Option(help="Instead of the recipe's.", show_default=False)
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the frozen networks' outputs, which runs on the same data can share; "
            "OUT/features if not given. About 450 KB a photo.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")
    ] = False,
) -> None:
    """Train the heads of the bundled encoder on captioned photos of your own."""
    # torch, and all that comes with it: not before the options have been understood
    from prolip_search.train.mini.config import read_recipe
    from prolip_search.train.mini.training import train_mini

    config = read_recipe(recipe)
    if seed is not None:
        config = replace(config, seed=seed)
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


class _Bars:
    """A bar for each stage, on stderr."""

    def __init__(self) -> None:
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
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """So many of the rows of one kind have gone through the frozen networks."""
        self._bars.update(self._task(what, total), completed=done)

    def report(self, step: Step) -> None:
        """One training step is done."""
        self._bars.update(
            self._task("training", step.n_steps),
            completed=step.step,
            description=f"training, loss {step.losses['total']:.3f}",
        )

    def _task(self, name: str, total: int) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        return self._tasks[name]


def _print_result(result: TrainingResult) -> None:
    for name, recalls in result.val.items():
        t2i = " / ".join(f"{value:.1f}" for value in recalls.t2i)
        i2t = " / ".join(f"{value:.1f}" for value in recalls.i2t)
        print(f"val by {name}: text→image {t2i}, image→text {i2t}, sum {recalls.rsum:.1f}")
    print(f"heads.safetensors and config.json are in {result.folder}")
    print(f"fingerprint {result.config.fingerprint}")
