"""prolip-search similar: photos like a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prolip_search.cli import options
from prolip_search.cli.answers import Form, print_answers


def similar(
    photo: Annotated[Path, typer.Argument(metavar="PATH", help="A photo, indexed or not.")],
    top: options.Top = 10,
    where: options.Where = None,
    after: options.After = None,
    before: options.Before = None,
    folder: options.In = None,
    near: options.Near = None,
    rank_by: options.RankBy = "csd",
    json: options.Json = False,
    jsonl: options.JsonLines = False,
    null: options.Null = False,
    thumbnails: options.Thumbnails = False,
    index: options.IndexFolder = None,
    runtime: options.Runtime = "auto",
) -> None:
    """Find the photos most like one photo.

    Exit status: 0 something was found, 1 nothing, 2 an error.
    """
    chosen = options.chosen_filter(where, after, before, folder, near)
    form = Form.of(json=json, jsonl=jsonl, null=null, thumbnails=thumbnails)
    engine = options.open_engine(index, runtime)
    if not print_answers([engine.similar(photo, top, rank_by=rank_by, where=chosen)], form):
        raise typer.Exit(1)
