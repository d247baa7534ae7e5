"""What changed on disk since an index was last brought up to date, without opening a file.

Paths are posix and relative to the folder that holds the index, so that a library can be moved
whole; what lies outside that folder begins with `..`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prolip_search.errors import QueryError, UnreadableImage
from prolip_search.files import FoundFile, stat_file, walk

if TYPE_CHECKING:
    from prolip_search.ignoring import Ignoring

# These pass without the file changing, so such files are tried again at every run.
PASSING_REASONS = frozenset({"permission", "vanished"})


# More than this share of a root, and so many files at least, are not taken for deleted at once: a
# disk that is not mounted looks the same.
LARGEST_LOSS = 0.5
SMALLEST_LOSS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A file that is not in the index, and why. Size and time are None where nobody could look."""

    path: str
    reason: str
    detail: str = ""
    size_bytes: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What an index remembers of a photo's file."""

    id: str
    path: str
    size_bytes: int
    mtime_ns: int
    content_hash: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to read: new, or (with `stored`) no longer what the index remembers."""

    path: str
    found: FoundFile
    stored: StoredFile | None


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies on disk under the roots. empty: root folders with nothing in them, or not there."""

    root: Path
    roots: list[Path]
    found: dict[str, FoundFile]
    skipped: list[SkippedFile]
    empty: list[Path]
    ignoring: Ignoring

    def root_of(self, path: str) -> Path | None:
        """The root that a path of the index lies under; None for one that was not looked at."""
        absolute = self.absolute(path)
        return next((root for root in self.roots if absolute.is_relative_to(root)), None)

    def absolute(self, path: str) -> Path:
        """Where a path of the index lies."""
        return Path(os.path.normpath(self.root / path))


@dataclass(slots=True)
class Changes:
    """What to do about a scan.

    skipped: known to be unusable, and not changed since. gone: remembered files that are no longer
    on disk, by id. elsewhere: remembered files outside the roots, by content; nobody looked whether
    they are still there. stale: ids that a newer row for the same path replaced. excluded: ids of
    files that a pattern leaves out now. missing: remembered files that are not on disk and are
    kept, by id, since their disk may not be mounted.
    """

    to_read: list[Candidate] = field(default_factory=list)
    n_unchanged: int = 0
    skipped: list[SkippedFile] = field(default_factory=list)
    gone: dict[str, StoredFile] = field(default_factory=dict)
    elsewhere: dict[str, list[StoredFile]] = field(default_factory=lambda: defaultdict(list))
    stale: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    missing: dict[str, StoredFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def scan(
    paths: Iterable[str | Path],
    *,
    root: Path,
    index_folder: Path,
    exclude: Sequence[str] = (),
    missing: Iterable[Path] = (),
) -> Scan:
    """All candidates under `paths`, each once, without what the patterns in `exclude` match.

    missing: roots that are not there and count as empty. Raises QueryError for a path that does not
    exist, or a pattern that is none.
    """
    # Its package of patterns takes as long to import as a query may take; only a scan needs it.
    from prolip_search.ignoring import Ignoring

    roots = [_absolute(Path(path)) for path in paths]
    ignoring = Ignoring(root, exclude)
    skipped: dict[str, SkippedFile] = {}

    def skip(error: UnreadableImage) -> None:
        path = relative_path(error.path, root)
        skipped[path] = SkippedFile(path=path, reason=error.reason, detail=error.detail)

    found: dict[str, FoundFile] = {}
    for file in walk(roots, exclude={index_folder}, ignoring=ignoring, on_skip=skip):
        if is_storable(file.path):
            found[relative_path(file.path, root)] = file
        else:
            skip(UnreadableImage(file.path, "unsupported", "its name is not valid UTF-8"))
    empty = [folder for folder in roots if folder.is_dir() and _is_empty(folder)]
    gone = list(missing)
    return Scan(root, roots + gone, found, list(skipped.values()), empty + gone, ignoring)


def compare(
    scanned: Scan,
    stored: Sequence[StoredFile],
    skipped_before: Mapping[str, SkippedFile],
    *,
    prune: bool = False,
) -> Changes:
    """The difference between the disk and the index. Order: as scanned, then as stored.

    prune: what an empty root held is gone, and not kept in case its disk is not mounted.
    """
    changes = Changes()
    by_path: dict[str, StoredFile] = {}
    for row in stored:
        twin = by_path.setdefault(row.path, row)
        if twin is not row:  # a run was killed between adding the new row and dropping the old
            file = scanned.found.get(row.path)
            newest = row if file is None or _is_unchanged(row, file) else twin
            by_path[row.path] = newest
            changes.stale.append(twin.id if newest is row else row.id)

    for path, file in scanned.found.items():
        _compare_file(changes, path, file, by_path.pop(path, None), skipped_before.get(path))

    for row in by_path.values():
        home = scanned.root_of(row.path)
        if home is None:
            changes.elsewhere[row.content_hash].append(row)
        elif home in scanned.empty and not prune:
            changes.missing[row.id] = row
        elif scanned.ignoring.ignores_file(scanned.absolute(row.path)):
            changes.excluded.append(row.id)
        else:
            try:  # a file that was once named by hand is no candidate of a walk, but still there
                file = stat_file(scanned.absolute(row.path))
            except UnreadableImage as error:
                if error.reason == "vanished":
                    changes.gone[row.id] = row
                continue
            _compare_file(changes, row.path, file, row, skipped_before.get(row.path))
    return changes


def keep_large_losses(
    changes: Changes, scanned: Scan, stored: Sequence[StoredFile], roots: Iterable[Path]
) -> None:
    """Keeps what is gone from a root that has lost too much to believe that it was deleted.

    To be called when moved files have been taken out of `changes`; puts into words what is missing.
    roots: those of earlier runs as well; a file counts for the nearest one above it.
    """
    homes_away = {scanned.root_of(row.path) for row in changes.missing.values()}
    changes.notes += [
        f"{home} is {'empty' if home.exists() else 'not there'}: is its disk mounted? What the "
        "index holds from there is kept; --prune drops it."
        for home in scanned.empty
        if home in homes_away
    ]
    homes = sorted({str(home) for home in (*scanned.roots, *roots)}, key=len, reverse=True)

    def home_of(row: StoredFile) -> str | None:
        path = str(scanned.absolute(row.path))
        return next((h for h in homes if path == h or path.startswith(h.rstrip("/") + "/")), None)

    lost: dict[str | None, list[StoredFile]] = defaultdict(list)
    for row in changes.gone.values():
        lost[home_of(row)].append(row)
    if max(map(len, lost.values()), default=0) < SMALLEST_LOSS:
        return
    n_held = Counter(map(home_of, stored))
    for home, rows in lost.items():
        if home is None or len(rows) < max(SMALLEST_LOSS, LARGEST_LOSS * n_held[home] + 1):
            continue
        for row in rows:
            changes.missing[row.id] = changes.gone.pop(row.id)
        changes.notes.append(
            f"{len(rows):,} of the {n_held[home]:,} files that the index holds from {home} are "
            "gone: is all of it mounted? They are kept; --prune drops them."
        )


def _compare_file(
    changes: Changes,
    path: str,
    file: FoundFile,
    row: StoredFile | None,
    before: SkippedFile | None,
) -> None:
    if row is not None and _is_unchanged(row, file):
        changes.n_unchanged += 1
    elif (
        before is not None and before.reason not in PASSING_REASONS and _is_unchanged(before, file)
    ):
        changes.skipped.append(before)
        if row is not None:
            changes.stale.append(row.id)
    else:
        changes.to_read.append(Candidate(path, file, row))


def _is_unchanged(remembered: StoredFile | SkippedFile, file: FoundFile) -> bool:
    now = (file.size_bytes, file.mtime_ns)
    return (remembered.size_bytes, remembered.mtime_ns) == now


def relative_path(path: Path, root: Path) -> str:
    """How the index names an absolute path; bytes that are not UTF-8 become backslash escapes."""
    relative = Path(os.path.relpath(path, root)).as_posix()
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _absolute(path: Path) -> Path:
    """Where a root really lies; a link to a file keeps its own name."""
    if not path.exists():
        raise QueryError(
            f"There is no file or folder {path}. Check the spelling and the disk. What the index "
            "holds from there is kept; --prune drops it."
        )
    real = Path(os.path.realpath(path))
    return real if real.is_dir() else Path(os.path.realpath(path.parent)) / path.name


def is_storable(path: Path) -> bool:
    """Whether the name is text: the index keeps paths as UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False  # nobody could look: not known to be empty
