"""prolip-search similar: photos like a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prolip_search.cli.answers import print_answers
from prolip_search.cli.options import SearchOptions, search_command


@search_command
def similar(
    photo: Annotated[Path, typer.Argument(metavar="PATH", help="A photo, indexed or not.")],
    *,
    options: SearchOptions,
) -> None:
    """Find the photos most like one photo.

    Exit status: 0 something was found, 1 nothing, or nothing that probably matches, 2 an error.
    """
    form, how = options.form, options.of_search()
    engine = options.engine()
    answer = options.remember(engine, engine.similar(photo, **how))
    if not print_answers([answer], form):
        raise typer.Exit(1)
