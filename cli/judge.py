"""prolip-search judge: say of results whether they fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prolip_search.cli import options
from prolip_search.cli.terminal import note
from prolip_search.errors import QueryError

if TYPE_CHECKING:
    from prolip_search.engine import SearchEngine
    from prolip_search.judging import Judgement, Label

LAST = "LAST"
VERDICTS: dict[str, Label] = {"yes": "match", "no": "no_match", "none": "none"}


def judge(
    query: Annotated[
        str, typer.Argument(metavar="LAST|TEXT", help="LAST for the last answer, or the query.")
    ],
    said: Annotated[
        list[str],
        typer.Argument(
            metavar="[RESULT]... yes|no|none",
            help="Results by rank, path or id, and whether they fit; none alone: nothing matches.",
        ),
    ],
    index: options.IndexFolder = None,
    runtime: options.Runtime = "auto",
) -> None:
    """Say of results whether they fit, such as `judge LAST 3 no`.

    What is said makes later confidences better.
    """
    *results, verdict = said
    label = VERDICTS.get(verdict.lower())
    if label is None or (label == "none") != (not results):
        raise QueryError(
            "Say which results fit or not: `prolip-search judge LAST 3 no`, or that nothing does: "
            "`prolip-search judge LAST none`."
        )
    engine = options.open_engine(index, runtime)
    judgements = _judgements(engine, query, results, label)
    engine.record(judgements)
    n_judged = engine.store.count_judgements()
    note(f"Kept. {n_judged:,} judgements so far; every 25 new ones confidences are fitted again.")


def _judgements(
    engine: SearchEngine, query: str, results: list[str], label: Label
) -> list[Judgement]:
    from prolip_search.judging import Judgement
    from prolip_search.label_files import find_item
    from prolip_search.remembering import last_answer

    last = last_answer(engine.store.history) if query == LAST else None
    asked = query if last is None else last.query
    if not results:
        return [Judgement(query=asked, item=None, label=label, source="thumbs")]
    judgements = []
    for result in results:
        rank = int(result) if last is not None and result.isdecimal() else None
        if last is not None and rank is not None:
            item = last.id_of(rank)
        else:
            found = find_item(engine.store, result)
            if found is None:
                is_number = result.isdecimal() and not Path(result).exists()
                why = " A rank needs LAST as the query." if is_number else ""
                raise QueryError(f"The index has no photo {result}; nothing was recorded.{why}")
            item = found
        judgements.append(
            Judgement(query=asked, item=item, label=label, source="thumbs", rank=rank)
        )
    return judgements
