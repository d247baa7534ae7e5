"""Options that several commands share, and the index they lead to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import prolip_search
from prolip_search.cli.terminal import note, shown_path
from prolip_search.errors import IndexNotFound

if TYPE_CHECKING:
    from prolip_search.engine import SearchEngine

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


def index_folder(index: Path | None) -> Path | None:
    """The index that --index means, or the nearest one from here upward."""
    if index is not None and (index / INDEX_FOLDER).is_dir():
        return index / INDEX_FOLDER
    return index or prolip_search.SearchEngine.find()


def open_engine(index: Path | None, runtime: Literal["auto", "onnx", "torch"]) -> SearchEngine:
    """The index that was named, or the nearest. Raises IndexNotFound."""
    folder = index_folder(index)
    if folder is None:
        raise IndexNotFound(
            f"There is no index in {shown_path(Path.cwd())} or above it. "
            "Make one with `prolip-search index PHOTOS`, or name one with --index."
        )
    show_messages()
    return prolip_search.SearchEngine.open(folder, runtime=runtime)


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
