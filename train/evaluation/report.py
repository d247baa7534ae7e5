"""What an evaluation leaves behind: report.json for programs, report.md and pictures for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prolip_search.errors import MissingExtra, TrainingDataError

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A titled table. rows: each as long as `columns`; floats are shown with `digits` digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 1
    note: str = ""

    def cells(self) -> list[list[str]]:
        """The rows as they are shown; what is not known is a dash."""
        return [[self._shown(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """A pipe table under its title: text to the left, numbers to the right."""
        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.cells()]
        marks = ["---:" if right else "---" for right in self._is_number()]
        lines = [f"| {' | '.join(row)} |" for row in ([*self.columns], marks, *rows)]
        note = f"\n\n{self.note}" if self.note else ""
        return f"### {self.title}\n\n" + "\n".join(lines) + note

    def text(self) -> str:
        """The same for a terminal, columns aligned with spaces."""
        rows = [list(self.columns), *self.cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        right = self._is_number()
        lines = [
            "  ".join(
                cell.rjust(width) if is_number else cell.ljust(width)
                for cell, width, is_number in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])

    def _is_number(self) -> list[bool]:
        return [
            any(isinstance(row[i], int | float) for row in self.rows)
            for i in range(len(self.columns))
        ]

    def _shown(self, cell: Cell) -> str:
        if cell is None or (isinstance(cell, float) and math.isnan(cell)):
            return "–"
        if isinstance(cell, float):
            return f"{cell:.{self.digits}f}"
        return f"{cell:,}" if isinstance(cell, int) else cell


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn when the report is written: `name`.png, with a line below it."""

    name: str
    caption: str
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Report:
    """One evaluation. text: paragraphs before the tables; data: all figures, for report.json."""

    title: str
    text: Sequence[str]
    tables: Sequence[Table]
    data: Mapping[str, Any]
    pictures: Sequence[Picture] = field(default_factory=tuple)

    def markdown(self, pictures: Sequence[Picture] = ()) -> str:
        """The page, with links to those pictures."""
        shown = [f"![{picture.caption}]({picture.name}.png)" for picture in pictures]
        tables = [table.markdown() for table in self.tables]
        return "\n\n".join([f"# {self.title}", *self.text, *tables, *shown]) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Writes report.json, report.md and the pictures into `folder`; the files, in order.

        Without Matplotlib there are no pictures, and report.md says how to get them.
        Raises TrainingDataError when the folder cannot be written.
        """
        drawn, missing = self._drawn()
        page = self.markdown([picture for picture, _ in drawn])
        files = {
            "report.json": (to_text(self.data) + "\n").encode(),
            "report.md": (page + (f"\n{missing}\n" if missing else "")).encode(),
            **{f"{picture.name}.png": image for picture, image in drawn},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (folder / name).write_bytes(content)
        except OSError as error:
            raise TrainingDataError(f"{folder} cannot be written: {error}.") from error
        return [folder / name for name in files]

    def _drawn(self) -> tuple[list[tuple[Picture, bytes]], str]:
        try:
            return [(picture, picture.draw()) for picture in self.pictures], ""
        except MissingExtra as error:
            # What took minutes to measure is not thrown away for want of a picture.
            return [], str(error)


def to_text(data: Any) -> str:
    """JSON of numbers, strings, lists, dicts and NumPy's values; NaN and infinities become null."""
    return json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(some) for key, some in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(some) for some in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
