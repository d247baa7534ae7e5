"""What a walk leaves out: patterns as in .gitignore, from files and from the command line.

A file called .prolip-search-ignore holds for its folder and all below, as .gitignore does. Nearer
files have the last word, later lines before earlier ones, and patterns given by hand before all
files. A folder that is left out is not looked into.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pathspec

from prolip_search.errors import QueryError

IGNORE_FILE = ".prolip-search-ignore"


@dataclass(frozen=True, slots=True)
class _Rules:
    """The patterns of one file, and those of the files above it."""

    base: Path
    spec: pathspec.GitIgnoreSpec
    outer: _Rules | None

    def verdict(self, path: Path, *, is_folder: bool) -> bool | None:
        """Whether the path is left out; None where no pattern speaks of it."""
        rules: _Rules | None = self
        while rules is not None:
            name = path.relative_to(rules.base).as_posix() + ("/" if is_folder else "")
            said = rules.spec.check_file(name).include
            if said is not None:
                return said
            rules = rules.outer
        return None


class Ignoring:
    """The patterns that hold in the folders of a walk, learnt as the walk enters them.

    top: the folder up to which files above a root are heeded, so that a folder is treated alike
    whether it or one above it is walked. patterns: given by hand, relative to each root. Raises
    QueryError for a pattern that is none, OSError for a file that cannot be read.
    """

    def __init__(self, top: Path, patterns: Sequence[str] = ()) -> None:
        self._top = top
        self._by_hand = _spec(patterns, "--exclude") if patterns else None
        self._roots: dict[Path, Path] = {}  # folder -> the root that it was reached from
        self._rules: dict[Path, _Rules | None] = {}

    def enter_root(self, root: Path) -> None:
        """Begins the walk of a root; heeds what files above it say."""
        rules = None
        if root.is_relative_to(self._top):
            above = [folder for folder in root.parents if folder.is_relative_to(self._top)]
            for folder in reversed(above):
                names = [IGNORE_FILE] if (folder / IGNORE_FILE).is_file() else []
                rules = _with_file(folder, names, rules)
        self._roots[root] = root
        self._rules[root] = rules

    def enter(self, folder: Path, names: Collection[str]) -> None:
        """Tells which names a folder holds, before any of them is asked about."""
        if folder not in self._roots:
            self._roots[folder] = self._roots[folder.parent]
            self._rules[folder] = self._rules[folder.parent]
        self._rules[folder] = _with_file(folder, names, self._rules[folder])

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Whether something in a folder that was entered is left out."""
        if self._by_hand is not None:
            name = path.relative_to(self._roots[path.parent]).as_posix() + "/" * is_folder
            said = self._by_hand.check_file(name).include
            if said is not None:
                return said
        rules = self._rules[path.parent]
        return bool(rules and rules.verdict(path, is_folder=is_folder))

    def ignores_file(self, path: Path) -> bool:
        """Whether a file, there or not, is left out by itself or by a folder above it."""
        above = [path, *path.parents]
        known = next((n for n, folder in enumerate(above) if folder in self._roots), None)
        if not known:  # not in a folder that was walked
            return False
        # From the nearest folder that was entered, the next one down is what was left out, if any.
        return self.ignores(above[known - 1], is_folder=known > 1)


def _with_file(folder: Path, names: Collection[str], outer: _Rules | None) -> _Rules | None:
    if IGNORE_FILE not in names:
        return outer
    path = folder / IGNORE_FILE
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return _Rules(folder, _spec(lines, str(path)), outer)


def _spec(patterns: Iterable[str], source: str) -> pathspec.GitIgnoreSpec:
    lines = list(patterns)
    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        bad = next((line for line in lines if not _is_pattern(line)), "")
        raise QueryError(
            f"{source}: {bad!r} is no pattern. Write it as in .gitignore, such as *.png or /old/."
        ) from error


def _is_pattern(line: str) -> bool:
    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
