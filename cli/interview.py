"""Asking somebody about results: the conversation behind `prolip-search calibrate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prolip_search.asking import DEEP, choose_ranks
from prolip_search.cli.drawing import result_name
from prolip_search.cli.keys import ReadKey
from prolip_search.cli.terminal import Terminal, note, visible
from prolip_search.cli.thumbnails import Protocol, inline_image
from prolip_search.judging import Judgement

if TYPE_CHECKING:
    from prolip_search.engine import SearchEngine
    from prolip_search.results import SearchResult

HELP = "y yes, it fits   n no   s skip   u undo the last   q stop and keep everything"
BOLD = 1


class Interview:
    """Queries, one after the other, and four results of each. What is said is kept at once."""

    def __init__(self, engine: SearchEngine, read_key: ReadKey, seed: int) -> None:
        self._engine = engine
        self._read_key = read_key
        self._rng = np.random.default_rng(seed)
        self._terminal = Terminal.of(sys.stdout)
        self._protocol = Protocol.of(sys.stdout)
        self.n_answers = 0

    def ask(self, queries: Sequence[str]) -> None:
        """Asks until the queries are used up or somebody stops: q, Ctrl-C, the input's end."""
        print(HELP)
        for number, query in enumerate(queries, start=1):
            print(f"\n{number} of {len(queries)}  {self._terminal.paint(visible(query), BOLD)}")
            said: list[Judgement] = []
            try:
                goes_on = self._about(query, said)
            except KeyboardInterrupt:
                goes_on = False
            self._engine.record(said, fit=False)
            self.n_answers += len(said)
            if not goes_on:
                return

    def _about(self, query: str, said: list[Judgement]) -> bool:
        """Asks about one query; False to stop. What was said is in `said`, however it ends."""
        answer = self._engine.search(query, DEEP)
        asked = choose_ranks(len(answer), self._rng)
        verdicts: list[str] = []
        try:
            while len(verdicts) < len(asked):
                verdict = self._verdict(answer[asked[len(verdicts)].rank - 1])
                if verdict == "q":
                    return False
                if verdict == "u":
                    del verdicts[-1:]
                else:
                    verdicts.append(verdict)
        finally:
            said += [
                Judgement(
                    query=query,
                    item=answer.ids[one.rank - 1],
                    label="match" if verdict == "y" else "no_match",
                    rank=one.rank,
                    probability=one.probability,
                )
                for one, verdict in zip(asked, verdicts, strict=False)
                if verdict in ("y", "n")
            ]
        if "n" in verdicts and "y" not in verdicts:
            return self._about_nothing(query, said)
        return True

    def _about_nothing(self, query: str, said: list[Judgement]) -> bool:
        """After a row of no: is there nothing at all? False to stop."""
        key = self._key("  Is there nothing of the kind in the whole collection? y/n/s ", "ynsq")
        if key == "y":
            said.append(Judgement(query=query, item=None, label="none"))
        return key != "q"

    def _verdict(self, result: SearchResult) -> str:
        if self._protocol is not None and result.file is not None:
            print(inline_image(result.file, self._protocol))
        name = self._terminal.link(result_name(result), result.file)
        return self._key(f"  {name}  fits? y/n/s ", "ynsuq")

    def _key(self, question: str, allowed: str) -> str:
        """One of the allowed letters; the end of the input stops."""
        while True:
            print(question, end="", flush=True)
            key = self._read_key()
            print(key if key.isprintable() else "")
            if key == "":
                return "q"
            if key in allowed:
                return key
            note(HELP)
