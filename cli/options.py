"""Options that several commands share, and the index they lead to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import prolip_search
from prolip_search.cli.terminal import note, shown_path
from prolip_search.errors import IndexNotFound, QueryError

if TYPE_CHECKING:
    from prolip_search.engine import SearchEngine
    from prolip_search.indexes.filters import Filter

INDEX_FOLDER = ".prolip-search"

IndexFolder = Annotated[
    Path | None,
    typer.Option(
        "--index",
        envvar="PROLIP_SEARCH_INDEX",
        metavar="DIR",
        help="The index folder, or the folder that holds .prolip-search. By default the nearest "
        "one, from here upward.",
    ),
]
Runtime = Annotated[
    Literal["auto", "onnx", "torch"],
    typer.Option(help="What runs the encoder; auto is torch on a GPU, ONNX Runtime elsewhere."),
]
Top = Annotated[int, typer.Option("--top", "-k", min=1, help="How many results.")]
RankBy = Annotated[
    Literal["csd", "cosine", "membership"],
    typer.Option(help="What orders the results: distance with uncertainty, without, or inclusion."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="One line of JSON for each query.")]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Paths alone, each ended by a zero byte (xargs -0).")
]
Thumbnails = Annotated[
    bool, typer.Option("--thumbnails", help="Show the photos, where the terminal can.")
]

Where = Annotated[
    str | None,
    typer.Option(
        metavar="SQL",
        help="Only photos of which this is true, such as \"taken_at >= '2024-06-01' AND "
        'width > 2000".',
    ),
]
After = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="Taken then or later: 2024, 2024-06, 2024-06-01 …"),
]
Before = Annotated[str | None, typer.Option(metavar="DATE", help="Taken before then.")]
In = Annotated[
    Path | None, typer.Option("--in", metavar="FOLDER", help="Photos at or under that folder.")
]
Near = Annotated[
    str | None,
    typer.Option(
        metavar="LAT,LON,KM", help="Taken so near to a place: degrees, north and east positive."
    ),
]


def chosen_filter(
    where: str | None,
    after: str | None,
    before: str | None,
    folder: Path | None,
    near: str | None,
) -> Filter | None:
    """What the options above ask for together; None where none was given. Raises QueryError."""
    if (where, after, before, folder, near) == (None,) * 5:
        return None  # a query without a filter need not import what filters are made of
    return prolip_search.Filter(
        where=where,
        after=after,
        before=before,
        folder=None if folder is None else folder.absolute(),
        near=None if near is None else _place(near),
    )


def _place(near: str) -> tuple[float, float, float]:
    try:
        latitude, longitude, km = (float(part) for part in near.split(","))
    except ValueError as error:
        raise QueryError(f"A place is LAT,LON,KM, such as 47.37,8.54,25; not {near!r}.") from error
    return latitude, longitude, km


def index_folder(index: Path | None) -> Path | None:
    """The index that --index means, or the nearest one from here upward."""
    if index is not None and (index / INDEX_FOLDER).is_dir():
        return index / INDEX_FOLDER
    return index or prolip_search.SearchEngine.find()


def needed_folder(index: Path | None) -> Path:
    """The index that was named, or the nearest. Raises IndexNotFound."""
    folder = index_folder(index)
    if folder is None:
        raise IndexNotFound(
            f"There is no index in {shown_path(Path.cwd())} or above it. "
            "Make one with `prolip-search index PHOTOS`, or name one with --index."
        )
    show_messages()
    return folder


def open_engine(index: Path | None, runtime: Literal["auto", "onnx", "torch"]) -> SearchEngine:
    """The index that was named, or the nearest, opened. Raises IndexNotFound."""
    return prolip_search.SearchEngine.open(needed_folder(index), runtime=runtime)


def show_messages() -> None:
    """Lets the person see what the library says about long work, such as the first export."""
    logger = logging.getLogger("prolip_search")
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes())
        logger.setLevel(logging.INFO)


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """One line on standard error."""
        note(record.getMessage())
