"""What a run writes down: JSON lines, a line a step, and TensorBoard where it is installed.

`log.jsonl` holds what the mathematics determines: two runs alike have it alike to the byte. What
the machine determines, seconds, goes to `timings.jsonl`. A disk without room costs no step: lines
wait in memory until they can be written.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from prolip_search.errors import TrainingError

__all__ = ["Lines", "RunLogs"]

logger = logging.getLogger(__name__)


class Lines:
    """A file of JSON lines that is only ever longer by whole ones."""

    def __init__(self, path: Path, n_kept: int) -> None:
        """Keeps the first `n_kept` lines of what is there: what came later will come again."""
        self._path = path
        self._waiting = b""
        self._warned = False
        lines = path.read_bytes().splitlines(keepends=True)[:n_kept] if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # cut off when the machine went down
        self._end = sum(map(len, lines))
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.ftruncate(self._file, self._end)

    def add(self, values: Mapping[str, Any]) -> None:
        """One more line, now or when there is room."""
        self._waiting += json.dumps(values).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                logger.warning("%s cannot be written (%s); its lines wait.", self._path, error)
                self._warned = True

    def close(self) -> None:
        """Raises TrainingError where lines still wait."""
        try:
            self._write()
        except OSError as error:
            raise TrainingError(
                f"{self._path} cannot be written ({error}); make room and run again with "
                "--resume auto."
            ) from error
        finally:
            os.close(self._file)

    def _write(self) -> None:
        while self._waiting:
            n_written = os.pwrite(self._file, self._waiting, self._end)
            self._waiting = self._waiting[n_written:]
            self._end += n_written


class RunLogs:
    """The logs of one run, from a step on; nothing at all in a process that does not write."""

    def __init__(self, out: Path, step: int, *, writes: bool = True) -> None:
        self._lines: dict[str, Lines] = {}
        self._board: Any = None
        if writes:
            self._lines = {
                "log": Lines(out / "log.jsonl", step),
                "timings": Lines(out / "timings.jsonl", step),
            }
            n_validations = _lines_up_to(out / "validation.jsonl", step)
            self._lines["validation"] = Lines(out / "validation.jsonl", n_validations)
            self._board = _tensorboard(out / "tensorboard", step)

    def __enter__(self) -> RunLogs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._to_board(lambda board: board.close())
        for lines in self._lines.values():
            try:
                lines.close()
            except TrainingError:
                if error is None:  # else there is something more important to say
                    raise

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """A line of `log`, `timings` or `validation`; its numbers go to TensorBoard too."""
        if name in self._lines:
            self._lines[name].add(values)
        numbers = {f"{name}/{key}": value for key, value in values.items() if key != "step"}

        def draw(board: Any) -> None:
            for tag, value in numbers.items():
                board.add_scalar(tag, value, values["step"])

        self._to_board(draw)

    def _to_board(self, write: Callable[[Any], object]) -> None:
        """Does something with TensorBoard's writer; the run does without it once it fails."""
        if self._board is None:
            return
        try:
            write(self._board)
        except OSError as error:
            logger.warning("TensorBoard's files cannot be written (%s); left out.", error)
            self._board = None


def _lines_up_to(path: Path, step: int) -> int:
    """How many lines, of those with a step, are of steps until that one."""
    n_lines = 0
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] > step:
                    break
            except ValueError:
                break
            n_lines += 1
    return n_lines


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning(
            "TensorBoard is not installed, so only JSON lines are written; "
            "`pip install 'prolip-search[train]'` for both."
        )
        return None
    # purge_step: what an interrupted run wrote of later steps is not shown
    return SummaryWriter(str(folder), purge_step=step + 1)
