"""prolip-search query: a text or a picture in, the best photos out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from prolip_search.cli import options
from prolip_search.cli.answers import Form, print_answers
from prolip_search.cli.breakdown import Breakdown
from prolip_search.cli.terminal import note
from prolip_search.errors import QueryError


def query(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            show_default=False,
            help="What the photo shows, in words. A single - reads one query from each line of "
            "standard input.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="Ask with a picture instead of words."),
    ] = None,
    top: options.Top = 10,
    offset: Annotated[int, typer.Option(min=0, help="Leave out that many better results.")] = 0,
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
    timings: Annotated[
        bool, typer.Option("--timings", help="Say on standard error where the time went.")
    ] = False,
) -> None:
    """Find the photos that a text or a picture describes.

    Exit status: 0 something was found, 1 nothing, 2 an error.
    """
    spent = Breakdown() if timings else None
    words = text or []
    if bool(words) == (image is not None):
        raise QueryError(
            'Ask with words or with a picture: `prolip-search query "a dog in the snow"`, or '
            "`prolip-search query --image FILE`."
        )
    chosen = options.chosen_filter(where, after, before, folder, near)
    form = Form.of(json=json, jsonl=jsonl, null=null, thumbnails=thumbnails)
    engine = options.open_engine(index, runtime)
    many = words == ["-"]
    one = image if image is not None else " ".join(words)
    if spent is not None:
        spent.follow(engine.timings)
        engine.warm_up(one)
    asked = _lines() if many else iter([one])
    answers = (
        engine.search(each, top, rank_by=rank_by, offset=offset, where=chosen) for each in asked
    )
    found = print_answers(answers, form, many=many)
    if spent is not None:
        for line in spent.lines():
            note(line)
    if not found:
        raise typer.Exit(1)


def _lines() -> Iterator[str]:
    """The queries on standard input, as they arrive; empty lines are no queries."""
    for line in sys.stdin.buffer:
        text = os.fsdecode(line).strip()
        if text:
            yield text
