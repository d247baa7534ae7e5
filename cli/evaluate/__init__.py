"""`prolip-search evaluate TASK`: one file for each task, imported when it runs."""

from __future__ import annotations

import typer

from prolip_search.cli.lazy import LazyGroup

# name -> what it does; the function of that name lies in the module of that name.
TASKS = {
    "retrieval": "Find images by their captions, and captions by their images.",
    "compare": "Compare two encoders on the same data, and say which differences are real.",
    "classify": "Zero-shot accuracy on labelled images, prompts filtered and re-weighted.",
    "calibration": "Fit a calibration on judged photos and report how well it keeps its word.",
    "hierarchy": "Walk from each image's nearest caption to its root, past its own captions.",
    "uncertainty": "Hold uncertainty against failure, length, parts and generality.",
}


class Tasks(LazyGroup):
    """The tasks."""

    table = TASKS
    package = "prolip_search.cli.evaluate"


evaluate = typer.Typer(cls=Tasks, rich_markup_mode=None, add_completion=False)


@evaluate.callback(invoke_without_command=True)
def tasks(context: typer.Context) -> None:
    """Measure what an encoder can do, on data of your own.

    Every task writes its figures as JSON, as Markdown tables and as pictures.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
