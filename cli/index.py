"""prolip-search index: photos in, an index that is up to date out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import prolip_search
from prolip_search.cli import options
from prolip_search.cli.drawing import report_summary, skipped_lines
from prolip_search.cli.progress import progress_bar
from prolip_search.cli.terminal import note
from prolip_search.errors import IndexNotFound, QueryError, StoreError

if TYPE_CHECKING:
    from prolip_search.engine import SearchEngine
    from prolip_search.indexing import IndexReport


def index(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="Folders of photos, or photos; by default the folders of earlier runs.",
        ),
    ] = None,
    index: options.IndexFolder = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For a new index: mini (the default), a folder, or a hub id such as "
            "SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8B.",
        ),
    ] = None,
    runtime: options.Runtime = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Photos per commit; a run that is cut short loses no more.")
    ] = 256,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out what matches, as in .gitignore; more than once for more patterns. "
            "A file .prolip-search-ignore in a folder does the same for good.",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Drop what is gone, even most of a folder or all of it.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="List every skipped file and its reason, as JSON Lines."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with status 1 if a file was skipped.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on: look again whenever a photo changes, until Ctrl-C."),
    ] = False,
    index_kind: Annotated[
        Literal["auto", "flat", "ivf"] | None,
        typer.Option(
            help="How photos are searched, from now on: flat is exact; ivf is for very many; auto, "
            "the default, changes over at 50,000."
        ),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=0.999,
            help="What share of the ten nearest ivf has to find, from now on: 0.95 by default.",
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Forget the old index and begin anew.")
    ] = False,
) -> None:
    """Index photos, or bring an index up to date: only what is new or changed is encoded.

    The index is made in .prolip-search here, unless there is one here or above. Files that are no
    photos are listed and left out. Exit status: 0 done, 1 no photos found, or with --strict
    something was skipped, 2 an error.
    """
    options.show_messages()
    folder = options.index_folder(index) or Path(options.INDEX_FOLDER)
    roots = paths or None
    if watch and not rebuild:
        engine = _open_or_create(folder, encoder, runtime, roots)
        if index_kind is not None or recall is not None:
            engine.configure_index(index_kind=index_kind, recall=recall)
        _watch(engine, roots, prune=prune, exclude=exclude or (), batch_size=batch_size)
        return
    try:
        with progress_bar("Indexing") as progress:
            if rebuild:
                encoder = encoder or _encoder_name(folder)
                engine, done = prolip_search.SearchEngine.rebuild(
                    folder,
                    roots,
                    encoder=encoder,
                    runtime=runtime,
                    exclude=exclude or (),
                    batch_size=batch_size,
                    progress=progress,
                )
                if index_kind is not None or recall is not None:
                    engine.configure_index(index_kind=index_kind, recall=recall)
                    engine.store.refresh_index()
            else:
                engine = _open_or_create(folder, encoder, runtime, roots)
                if index_kind is not None or recall is not None:
                    engine.configure_index(index_kind=index_kind, recall=recall)
                done = engine.index(
                    roots,
                    prune=prune,
                    exclude=exclude or (),
                    batch_size=batch_size,
                    progress=progress,
                )
    except KeyboardInterrupt:
        note("Stopped. What was done is kept; run the same command to go on.")
        raise
    _tell(done)
    if watch:
        _watch(engine, roots, prune=prune, exclude=exclude or (), batch_size=batch_size)
        return
    if report is not None:
        _write_report(done, report)
    if done.skipped and done.n_photos == 0:
        raise QueryError("No photo was indexed: every file that was found is listed above.")
    if done.n_photos == 0 or (strict and done.skipped):
        raise typer.Exit(1)


def _tell(done: IndexReport) -> None:
    print(report_summary(done), flush=True)
    for line in [*done.notes, *skipped_lines(done.skipped)]:
        note(line)


def _watch(
    engine: SearchEngine,
    roots: list[Path] | None,
    *,
    prune: bool,
    exclude: Sequence[str],
    batch_size: int,
) -> None:
    note("Watching for changes; Ctrl-C ends it.")
    reports = engine.watch(roots, prune=prune, exclude=exclude, batch_size=batch_size)
    try:
        for number, done in enumerate(reports):
            if number == 0 or done.n_new or done.n_removed:
                _tell(done)
    except KeyboardInterrupt:
        note("Stopped. The index is as up to date as the last line above says.")


def _open_or_create(
    folder: Path, encoder: str | None, runtime: options.Runtime, roots: list[Path] | None
) -> SearchEngine:
    try:
        wanted = prolip_search.load_encoder(encoder, runtime=runtime) if encoder else None
        return prolip_search.SearchEngine.open(folder, encoder=wanted, runtime=runtime)
    except IndexNotFound:
        if roots is None:
            raise QueryError(
                "There is no index here whose folders could be looked at again. "
                "Name the photos: `prolip-search index PATH`."
            ) from None
        for root in roots:
            if not root.exists():  # a typing error makes no index
                raise QueryError(
                    f"There is no file or folder {root}. Check the spelling."
                ) from None
        return prolip_search.SearchEngine.create(folder, encoder=encoder or "mini", runtime=runtime)


def _encoder_name(folder: Path) -> str:
    """Of the index that is to be rebuilt, where it can still be read."""
    try:
        return prolip_search.SearchEngine.open(folder).store.encoder.name
    except StoreError:
        return "mini"


def _write_report(done: IndexReport, path: Path) -> None:
    lines = [json.dumps(asdict(skip), ensure_ascii=False) + "\n" for skip in done.skipped]
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise QueryError(f"The report cannot be written to {path}: {error.strerror}.") from error
