"""What every task of `evaluate` has in common: its options, its progress, and what it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolip_search.cli.options import Json, Runtime
from prolip_search.cli.terminal import note

if TYPE_CHECKING:
    from prolip_search.train.datasets.skips import Skipped
    from prolip_search.train.evaluation.report import Report

__all__ = ["Cache", "Captioned", "EncoderName", "Images", "Json", "Out", "Runtime", "Split",
           "make_folder", "print_report", "print_skipped", "stages"]  # fmt: skip

EncoderName = Annotated[
    str, typer.Option("--encoder", help="mini, a folder, or the id of a hub repository.")
]
Captioned = Annotated[
    Path,
    typer.Option(
        "--data",
        help="Captioned images: a Parquet file or a folder of them, .csv or .jsonl, or the .json "
        "of COCO or Karpathy.",
        show_default=False,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="The folder of the images that --data names; else the folder of --data.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Which part of --data, where it has several: test, val …", show_default=False
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder that keeps what was encoded, for the next time.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for report.json, report.md and pictures.")]

N_SKIPPED_SHOWN = 5


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A function (what, done, total): a bar for each stage on a terminal, else a line for each."""
    import sys

    if not sys.stderr.isatty():
        seen: set[str] = set()

        def tell(what: str, done: int, total: int) -> None:
            if what not in seen:
                seen.add(what)
                note(f"{what} ({total:,})")

        yield tell
        return
    # Rich takes a tenth of a second to import.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        known: dict[str, TaskID] = {}

        def move(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done)

        yield move


def make_folder(out: Path) -> None:
    """The folder of the report: before the work, and not after it, it must turn out to be possible.

    Raises TrainingDataError.
    """
    from prolip_search.errors import TrainingDataError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingDataError(f"{out} cannot be written: {error}.") from error


def print_report(report: Report, out: Path, as_json: bool) -> None:
    """Writes the report; on standard output its tables or, for programs, report.json's content."""
    from prolip_search.train.evaluation.report import to_text

    files = report.write(out)
    if as_json:
        print(to_text(report.data))
    else:
        print("\n\n".join(table.text() for table in report.tables))
    if report.pictures and not any(file.suffix == ".png" for file in files):
        note("No pictures: `pip install 'prolip-search[evaluate]'` brings what draws them.")
    for file in files:
        note(f"wrote {file}")


def print_skipped(skipped: Sequence[Skipped]) -> None:
    """How many images were left out, and why the first few."""
    if not skipped:
        return
    note(f"{len(skipped):,} left out:")
    for one in skipped[:N_SKIPPED_SHOWN]:
        note(f"  {one.key}: {one.reason}{one.detail and f' ({one.detail})'}")
    if len(skipped) > N_SKIPPED_SHOWN:
        note(f"  … and {len(skipped) - N_SKIPPED_SHOWN:,} more, listed in report.json")
