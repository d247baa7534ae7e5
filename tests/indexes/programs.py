"""Programs of this folder that take orders, each a JSON line, and answer with JSON lines."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHECKOUT = Path(__file__).resolve().parents[2]


class Program:
    """One that runs. It imports everything once, however many orders it is given."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin, self._stdout = stdin, stdout

    def send(self, **order: Any) -> None:
        """Gives an order; paths become text."""
        self._stdin.write(json.dumps(order, default=str) + "\n")
        self._stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next line of its answer."""
        return json.loads(self._stdout.readline())  # type: ignore[no-any-return]  # JSON

    def ask(self, **order: Any) -> dict[str, Any]:
        """The answer to an order that has one line."""
        self.send(**order)
        return self.receive()


@contextlib.contextmanager
def running(module: str, *, quiet: bool = False) -> Iterator[Program]:
    """Runs a module until the end of the block. quiet: what it says on stderr is thrown away."""
    with subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        cwd=CHECKOUT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Program(process.stdin, process.stdout)
        process.stdin.close()
