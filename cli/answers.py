"""Printing the answers of a search, for people or for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from prolip_search.cli.confidences import is_probably_nothing, none_words
from prolip_search.cli.drawing import cutoff_line, footer, result_line, result_lines
from prolip_search.cli.terminal import Terminal, note, shown_path, visible
from prolip_search.cli.thumbnails import Protocol, inline_image
from prolip_search.errors import QueryError

if TYPE_CHECKING:
    from prolip_search.results import SearchResults


class Form(Enum):
    """What answers are printed as."""

    TABLE = "table"
    THUMBNAILS = "thumbnails"
    JSON = "json"
    JSON_LINES = "jsonl"
    NULL = "null"

    @classmethod
    def of(cls, *, json: bool, jsonl: bool, null: bool, thumbnails: bool) -> Form:
        """The one that the options ask for. Raises QueryError for two at once."""
        wanted = {"--json": json, "--jsonl": jsonl, "-0": null, "--thumbnails": thumbnails}
        names = [name for name, on in wanted.items() if on]
        if len(names) > 1:
            raise QueryError(f"{' and '.join(names)} exclude each other; choose one.")
        forms = {
            "--json": cls.JSON,
            "--jsonl": cls.JSON_LINES,
            "-0": cls.NULL,
            "--thumbnails": cls.THUMBNAILS,
        }
        return forms[names[0]] if names else cls.TABLE


def print_answers(answers: Iterable[SearchResults], form: Form, *, many: bool = False) -> bool:
    """Prints every answer as it comes; whether any of them held what probably matches.

    many: the number of queries is not known to be one, so a JSON document is a list, and a table
    says which query it answers.
    """
    found = False
    documents = []
    for number, answer in enumerate(answers):
        found = found or (len(answer) > 0 and not is_probably_nothing(answer))
        if answer.query.truncated:
            note("The query is longer than the encoder reads: its end was left out.")
        if form is Form.JSON:
            documents.append(answer.to_dict())
        elif form is Form.JSON_LINES:
            _write(answer.to_json())
        elif form is Form.NULL:
            _write_paths(answer)
        else:
            if many:
                print(("\n" if number else "") + visible(answer.query.text))
            _print_table(answer, with_thumbnails=form is Form.THUMBNAILS)
        sys.stdout.flush()
    if form is Form.JSON:
        _write(json.dumps(documents if many else documents[0], ensure_ascii=False, indent=2))
    return found


def _print_table(answer: SearchResults, *, with_thumbnails: bool) -> None:
    terminal = Terminal.of(sys.stdout)
    protocol = Protocol.of(sys.stdout) if with_thumbnails else None
    if with_thumbnails and protocol is None:
        note("No pictures here: they need a terminal such as Kitty, Ghostty, WezTerm or iTerm2.")
    if not answer:
        note("Nothing matches." if answer.offset == 0 else "There are no more results.")
        return
    above = none_words(answer)
    if above is not None:
        sys.stdout.flush()
        note(above)
    if protocol is None:
        for line in result_lines(answer, terminal):
            print(line)
    else:
        for result in answer:
            if result.file is not None:
                print(inline_image(result.file, protocol))
            print(result_line(result, terminal, calibration=answer.calibration))
            if result.rank == answer.cutoff:
                print(cutoff_line(answer, terminal))
    sys.stdout.flush()
    print(footer(answer, Terminal.of(sys.stderr)), file=sys.stderr)


def _write(text: str) -> None:
    """A line of JSON, UTF-8 whatever the terminal speaks; a stray byte of a path as \\udcxx."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()


def _write_paths(answer: SearchResults) -> None:
    paths = [shown_path(result.file) for result in answer if result.file is not None]
    sys.stdout.buffer.write(b"".join(os.fsencode(path) + b"\0" for path in paths))
    sys.stdout.buffer.flush()
