"""prolip-search query: a text or a picture in, the best photos out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from prolip_search.cli.answers import print_answers
from prolip_search.cli.breakdown import Breakdown
from prolip_search.cli.options import SearchOptions, search_command
from prolip_search.cli.terminal import note
from prolip_search.errors import QueryError


@search_command
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
    offset: Annotated[int, typer.Option(min=0, help="Leave out that many better results.")] = 0,
    timings: Annotated[
        bool, typer.Option("--timings", help="Say on standard error where the time went.")
    ] = False,
    *,
    options: SearchOptions,
) -> None:
    """Find the photos that a text or a picture describes.

    Exit status: 0 something was found, 1 nothing, or nothing that probably matches, 2 an error.
    """
    spent = Breakdown() if timings else None
    one = _asked(text or [], image)
    form, how = options.form, options.of_search()
    engine = options.engine()
    many = text == ["-"]
    if spent is not None:
        spent.follow(engine.timings)
        engine.warm_up(one)
    asked = _lines() if many else iter([one])
    answers = (
        options.remember(engine, engine.search(each, offset=offset, **how)) for each in asked
    )
    found = print_answers(answers, form, many=many)
    if spent is not None:
        for line in spent.lines():
            note(line)
    if not found:
        raise typer.Exit(1)


def _asked(words: list[str], image: Path | None) -> str | Path:
    """The words or the picture. Raises QueryError for neither, and for both."""
    if words and image is not None:
        raise QueryError(
            f"A query is words or a picture, not both: leave out {' '.join(words)!r} or --image."
        )
    if not words and image is None:
        raise QueryError(
            'Ask with words or with a picture: `prolip-search query "a dog in the snow"`, or '
            "`prolip-search query --image FILE`."
        )
    return image if image is not None else " ".join(words)


def _lines() -> Iterator[str]:
    """The queries on standard input, as they arrive; empty lines are no queries."""
    for line in sys.stdin.buffer:
        text = os.fsdecode(line).strip()
        if text:
            yield text
