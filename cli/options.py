"""Options that several commands share, and the index they lead to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

import prolip_search
from prolip_search.cli.answers import Form
from prolip_search.cli.terminal import note, shown_path
from prolip_search.errors import IndexNotFound, QueryError

if TYPE_CHECKING:
    from prolip_search.engine import SearchEngine
    from prolip_search.indexes.filters import Filter
    from prolip_search.results import SearchResults

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

Coverage = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="In which share of searches the image that you describe is to be above the line.",
    ),
]
MinConfidence = Annotated[
    float | None,
    typer.Option(metavar="P", help="Leave out results that match with a lower probability."),
]
NoHistory = Annotated[
    bool,
    typer.Option(
        "--no-history", envvar="PROLIP_SEARCH_NO_HISTORY", help="Do not remember what was asked."
    ),
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


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options that every command takes which prints results. What they mean together is below.

    The fields are the options: `search_command` gives them to a command, in this order.
    """

    top: Top = 10
    where: Where = None
    after: After = None
    before: Before = None
    folder: In = None
    near: Near = None
    rank_by: RankBy = "csd"
    coverage: Coverage = 0.9
    min_confidence: MinConfidence = None
    json: Json = False
    jsonl: JsonLines = False
    null: Null = False
    thumbnails: Thumbnails = False
    no_history: NoHistory = False
    index: IndexFolder = None
    runtime: Runtime = "auto"

    @property
    def form(self) -> Form:
        """What answers are printed as. Raises QueryError for two forms at once."""
        return Form.of(json=self.json, jsonl=self.jsonl, null=self.null, thumbnails=self.thumbnails)

    def of_search(self) -> dict[str, Any]:
        """The arguments of `SearchEngine.search` that they stand for. Raises QueryError."""
        return {
            "k": self.top,
            "rank_by": self.rank_by,
            "where": self._filter(),
            "coverage": self.coverage,
            "min_confidence": self.min_confidence,
        }

    def remember(self, engine: SearchEngine, answer: SearchResults) -> SearchResults:
        """The answer, kept in the history of the index unless that is not wanted."""
        if not self.no_history:
            engine.remember(answer)
        return answer

    def engine(self) -> SearchEngine:
        """The index that they name, opened. Raises IndexNotFound."""
        return open_engine(self.index, self.runtime)

    def _filter(self) -> Filter | None:
        asked = (self.where, self.after, self.before, self.folder, self.near)
        if asked == (None,) * 5:
            return None  # a query without a filter need not import what filters are made of
        return prolip_search.Filter(
            where=self.where,
            after=self.after,
            before=self.before,
            folder=None if self.folder is None else self.folder.absolute(),
            near=None if self.near is None else _place(self.near),
        )


def search_command(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose last parameter, `options`, arrives from the options of SearchOptions."""
    names = [field.name for field in fields(SearchOptions)]
    types = get_type_hints(SearchOptions, include_extras=True)

    @wraps(command)
    def with_options(**given: Any) -> None:
        chosen = SearchOptions(**{name: given.pop(name) for name in names})
        command(**given, options=chosen)

    own = [p for p in signature(command, eval_str=True).parameters.values() if p.name != "options"]
    shared = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=types[field.name],
        )
        for field in fields(SearchOptions)
    ]
    own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
    with_options.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    with_options.__signature__ = signature(command).replace(  # type: ignore[attr-defined]
        parameters=[*own, *shared]
    )
    return with_options


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
