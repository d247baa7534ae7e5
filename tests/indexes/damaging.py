"""A program that damages an index and asks it everything, each time in a child: of test_bit_rot.py.

It imports everything once. An order is a JSON line on its standard input, an answer one on its
standard output:

    {"library": …, "make": state}    makes a library whose derived files are in one of STATES
    {"library": …}                   what it answers as it is
    {"library": …, "damage": [[path, bit, length], …]}
                                     a line for each: what it answers with this bit of this file
                                     flipped (null: none), or cut off at this length (null: not)

An answer has the child's exit status and, by question, what came of it: a value, or the error.
Files are as they were before when the order is done.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance  # noqa: F401  # imported before the fork: once instead of for every child

from prolip_search.engine import SearchEngine
from prolip_search.errors import ProlipSearchError
from prolip_search.indexes.store import INDEX_FOLDER
from tests.indexes.libraries import (
    BATCH_SIZE,
    ENCODERS,
    RESTLESS,
    TEXTS,
    change_photos,
    new_library,
    opened,
    prepare_tail,
    save_photo,
)

LONGEST_S = 60  # a child that hangs is killed, which counts as a crash
MOST_MEMORY_BYTES = 8 << 30  # of addresses: damage must not ask for more
COUNTS = (1, 10, 200)


def _flat(folder: Path) -> None:
    new_library(folder)
    change_photos(folder)
    opened(folder).index(batch_size=BATCH_SIZE)


def _behind(folder: Path) -> None:
    """Rows were added, moved and deleted since the derived files were written."""
    prepare_tail(folder)
    save_photo(folder / "photos", 200)
    engine = opened(folder)
    with engine.store.writer():
        engine.add(["one more text"])
        table = engine.store.table(["id", "path"]).to_pylist()
        ids = {row["path"]: row["id"] for row in table}
        engine.remove([ids["photos/010.png"], ids["photos/later/101.png"]])


def _missing(folder: Path) -> None:
    _behind(folder)
    (folder / INDEX_FOLDER / "csd.json").unlink()


# What a search reads: lists with a tail and dead rows; a flat index; that and the rows written
# since from the table; and the table alone.
STATES: dict[str, Callable[[Path], None]] = {
    "lists": prepare_tail,
    "flat": _flat,
    "behind": _behind,
    "missing": _missing,
}


def questions(engine: SearchEngine) -> dict[str, Callable[[], Any]]:
    """Whatever one may ask of an index."""

    def search(**options: Any) -> Any:
        found = []
        for k in COUNTS:
            for results in engine.search_many(TEXTS, k=k, **options):
                rows = zip(results.ids, results.csd.tolist(), results.paths, strict=True)
                found.append([list(row) for row in rows])
        return found

    def probabilities() -> Any:
        results = engine.search(TEXTS[0], k=20)
        return [results.model_probability.tolist(), results.inclusion.tolist()]

    store = engine.store
    return {
        "search": search,
        "by cosine": lambda: search(rank_by="cosine"),
        "by membership": lambda: search(rank_by="membership"),
        "filtered": lambda: search(where="width > 5 AND folder = 'photos/later'"),
        "probabilities": probabilities,
        "items": lambda: sorted(map(repr, store.files().to_pylist())),
        "skipped": lambda: store.skipped().to_pylist(),
        "judgements": lambda: [repr(row) for row in store.judgements().to_pylist()],
    }


def ask(folder: Path) -> dict[str, Any]:
    """The answer to every question, or its error; whether verify found anything."""
    answers: dict[str, Any] = {}

    def note(name: str, question: Callable[[], Any]) -> None:
        try:
            answers[name] = {"value": question()}
        except ProlipSearchError as error:
            answers[name] = {"error": type(error).__name__, "message": str(error)}

    try:
        engine = SearchEngine.open(folder / INDEX_FOLDER, encoder=ENCODERS[0])
    except ProlipSearchError as error:
        answers["open"] = {"error": type(error).__name__, "message": str(error)}
    else:
        for name, question in questions(engine).items():
            note(name, question)
    note("verify", lambda: verify(folder))
    return answers


def verify(folder: Path) -> list[str]:
    from prolip_search.verification import verify_index

    report = verify_index(folder / INDEX_FOLDER, lambda store: ENCODERS[0])
    return [f"{f.path}: {f.what}" for f in report.findings if f.path not in RESTLESS]


def in_a_child(task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a task gives in a process of its own, and the exit status of that."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        signal.alarm(LONGEST_S)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
        with os.fdopen(send, "w") as pipe:
            pipe.write(json.dumps(task()))
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"status": code, "answers": json.loads(text) if code == 0 else {}}


def with_damage(folder: Path, path: Path, bit: int | None, length: int | None) -> dict[str, Any]:
    content = path.read_bytes()
    times = path.stat()
    damaged = bytearray(content[:length])
    if bit is not None:
        damaged[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(damaged)
        return in_a_child(lambda: ask(folder))
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def answer(order: dict[str, Any]) -> list[dict[str, Any]]:
    folder = Path(order["library"])
    if "make" in order:

        def make() -> dict[str, Any]:
            STATES[order["make"]](folder)
            engine = opened(folder)
            for query, fits in ((TEXTS[0], True), (TEXTS[1], False)):
                engine.judge(query, engine.search(query, k=1)[0], fits)
            return {}

        return [in_a_child(make)]
    if "damage" not in order:
        return [in_a_child(lambda: ask(folder))]
    return [with_damage(folder, Path(path), *how) for path, *how in order["damage"]]


def main() -> None:
    # True of a process in which Lance has run; here it first runs in the child.
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    for line in sys.stdin:
        for one in answer(json.loads(line)):
            sys.stdout.write(json.dumps(one) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
