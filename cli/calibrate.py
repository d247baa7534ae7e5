"""prolip-search calibrate: make confidences keep their word, by asking or from labels."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolip_search.cli import options
from prolip_search.cli.reporting import report_lines
from prolip_search.cli.terminal import note, shown_path
from prolip_search.errors import QueryError

if TYPE_CHECKING:
    from prolip_search.calibration_report import CalibrationReport
    from prolip_search.engine import SearchEngine


def calibrate(
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask about these queries, one a line; - reads stdin."),
    ] = None,
    judgements: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Lines of {"query", "image", "match": true or false}.'),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A CSV file with the columns image and caption: for the line only."
        ),
    ] = None,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Pairs from photo.txt beside photo.jpg, or IPTC and XMP."),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Say how well confidences keep their word.")
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget all judgements, and what was fitted.")
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Fit again, without asking.")] = False,
    n_queries: Annotated[
        int, typer.Option("--number", "-n", min=1, help="How many queries to ask about.")
    ] = 60,
    json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
    index: options.IndexFolder = None,
    runtime: options.Runtime = "auto",
) -> None:
    """Make confidences keep their word: say of a few results whether they fit.

    Asks about 60 queries, four results each, a quarter of them of unlikely things. Answer with
    one key; stop at any time: what was said is kept.
    """
    modes = {
        "--queries": queries is not None,
        "--judgements": judgements is not None,
        "--pairs": pairs is not None,
        "--beside": beside,
        "--report": report,
        "--reset": reset,
        "--refit": refit,
    }
    chosen = [name for name, on in modes.items() if on]
    if len(chosen) > 1:
        raise QueryError(f"{' and '.join(chosen)} exclude each other; choose one.")
    engine = options.open_engine(index, runtime)
    if reset:
        n_forgotten = engine.forget_calibration()
        note(f"{n_forgotten:,} judgements were forgotten, and what was fitted from them.")
        return
    if report:
        done = engine.calibration_report()
    elif judgements is not None:
        done = engine.calibrate(judgements=judgements)
    elif pairs is not None or beside:
        done = engine.calibrate(pairs=pairs) if pairs is not None else engine.calibrate_beside()
        _tell_of_pairs(done)
        if _would_answer():
            _interview(engine, None, n_queries)
            done = engine.calibrate()
    else:
        if not refit:
            _interview(engine, _lines(queries) if queries is not None else None, n_queries)
        done = engine.calibrate()
    for line in done.notes:
        note(line)
    if json:
        print(json_module.dumps(done.to_dict(), ensure_ascii=True, indent=2))
        return
    for line in report_lines(done):
        print(line)


def _tell_of_pairs(done: CalibrationReport) -> None:
    note(
        f"{done.n_recorded:,} new pairs. Pairs draw the line above which the image of a caption "
        "lies, and say nothing of other images: for confidences answer a few questions with "
        "`prolip-search calibrate`."
    )


def _would_answer() -> bool:
    """Whether somebody is there, and wants to answer questions now."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    from prolip_search.cli.keys import keys

    print("Answer a few questions now? y/n ", end="", flush=True)
    with keys() as read_key:
        answer = read_key()
    print(answer if answer.isprintable() else "")
    return answer == "y"


def _interview(engine: SearchEngine, own: list[str] | None, n: int) -> None:
    # What asks imports NumPy, which --help does without.
    from prolip_search.cli.interview import Interview
    from prolip_search.cli.keys import keys

    if not engine.store.count("image"):
        raise QueryError("The index holds no photos to ask about: `prolip-search index PHOTOS`.")
    queries = engine.queries_to_ask(n) if own is None else own[:n]
    if not queries:
        raise QueryError("There is no query left to ask about; give some with --queries FILE.")
    with keys() as read_key:
        interview = Interview(engine, read_key, seed=engine.store.count_judgements())
        interview.ask(queries)
    n = interview.n_answers
    note(f"{n:,} answer was kept." if n == 1 else f"{n:,} answers were kept.")


def _lines(path: Path) -> list[str]:
    """The queries of a file. Raises QueryError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise QueryError(f"{shown_path(path)} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise QueryError(f"{shown_path(path)} cannot be read: {error.strerror}.") from error
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
