"""Whether an index is what was written, and what it remembers of the files still true."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from prolip_search.changes import relative_path
from prolip_search.encoders.protocol import Encoder
from prolip_search.errors import EncoderError, IndexDamaged, UnreadableImage
from prolip_search.files import content_hash, read_file, stat_file
from prolip_search.indexes.blocks import DerivedDamage
from prolip_search.indexes.store import Store

Part = Literal["manifest", "items", "derived", "skipped", "judgements", "encoder", "file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, and what to do about it.

    path: the file, relative to the root for photos, or the part of the index. repairable: whether
    `verify(repair=True)` mends it.
    """

    part: Part
    path: str
    what: str
    advice: str
    repairable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a check found. leftovers: harmless, of writers that were killed; notes: good to know.

    repaired: what was mended before, where that was asked for; findings are what remains.
    """

    folder: Path
    n_items: int
    n_files: int
    findings: tuple[Finding, ...]
    leftovers: tuple[str, ...]
    notes: tuple[str, ...]
    repaired: tuple[str, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether there is nothing to do."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """JSON's types only; a stable schema."""
        values = asdict(self) | {"folder": str(self.folder), "clean": self.clean}
        values["findings"] = [asdict(finding) for finding in self.findings]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def verify_index(
    folder: Path, encoder: Callable[[Store], Encoder], *, repair: bool = False
) -> VerifyReport:
    """Checks the index at `folder`: its parts, its encoder, and every file that it remembers.

    encoder: the one of an opened index; its weights need not be loaded. repair: first removes what
    killed writers left, and writes anew what is derived. A file is read only where its time
    changed and its size did not. Raises IndexNotFound, IndexTooNew, and with repair IndexLocked
    and IndexNotWritable.
    """
    start = time.perf_counter()
    repaired: list[str] = []
    try:
        store = Store.open(folder)
        if repair:
            repaired = _repair(store)
            store = Store.open(folder)
    except IndexDamaged as error:
        finding = _damage("manifest", error)
        return _report(folder, start, [finding], repaired)
    n_items, findings = _check_items(store)
    is_whole = all(finding.part != "items" for finding in findings)
    findings += _check_skipped(store)
    findings += _check_judgements(store)
    findings += _check_encoder(store, encoder)
    n_files, leftovers, notes = 0, [], []
    if is_whole:
        n_files = len(_remembered(store))
        findings += _check_files(store)
        leftovers = store.leftovers()
        notes = [
            f"{name} is a rebuild that was not finished: `prolip-search index --rebuild` goes on "
            "with it, or delete it."
            for name in store.unfinished_rebuilds()
        ]
    return _report(folder, start, findings, repaired, n_items, n_files, leftovers, notes)


def _report(
    folder: Path,
    start: float,
    findings: list[Finding],
    repaired: list[str],
    n_items: int = 0,
    n_files: int = 0,
    leftovers: list[str] | None = None,
    notes: list[str] | None = None,
) -> VerifyReport:
    return VerifyReport(
        folder=folder,
        n_items=n_items,
        n_files=n_files,
        findings=tuple(findings),
        leftovers=tuple(leftovers or ()),
        notes=tuple(notes or ()),
        repaired=tuple(repaired),
        seconds=time.perf_counter() - start,
    )


def _repair(store: Store) -> list[str]:
    """Mends what can be; in words, what that was. A table that cannot be read is left as it is."""
    _, findings = _check_items(store)
    if any(finding.part == "items" for finding in findings):
        return []
    findings += _check_skipped(store)
    mended = [f"{f.path}: {f.what}" for f in findings if f.repairable]
    leftovers = [f"removed {name}" for name in store.leftovers()]
    if mended or leftovers:
        store.repair()
    return [*mended, *leftovers]


def _damage(part: Part, error: IndexDamaged, *, repairable: bool = False) -> Finding:
    what, _, advice = str(error).partition(". ")
    path = error.path.name if error.path else part
    return Finding(part=part, path=path, what=what, advice=advice, repairable=repairable)


def _check_items(store: Store) -> tuple[int, list[Finding]]:
    """How many items there are, and what is wrong with them or with what is derived from them."""
    mend = "Run `prolip-search verify --repair`."
    try:
        check = store.verify_items()
        state = "behind" if check.wrong_ids else _derived_state(store)
    except IndexDamaged as error:
        return 0, [_damage("items", error)]
    findings = [
        Finding(
            part="items",
            path=store.manifest.items_table,
            what=f"The item {id!r} does not match its checksum",
            advice="Restore the index from a backup, or run `prolip-search index --rebuild`.",
        )
        for id in check.wrong_ids
    ]
    what = ""
    if state == "damaged":
        what = "The derived files are not what was written; queries do without them, slowly"
    elif not check.same_in_derived:
        what = "The derived files hold other rows than the items table"
    if what:
        findings.append(
            Finding(part="derived", path="csd.json", what=what, advice=mend, repairable=True)
        )
    return check.n_items, findings


def _derived_state(store: Store) -> str:
    """How the derived files were found, once every byte of them has been read."""
    state = store.derived_state
    if state == "damaged":
        return state
    try:
        store.check_derived()
    except DerivedDamage:
        return "damaged"
    return state


def _check_skipped(store: Store) -> list[Finding]:
    try:
        store.skipped()
    except IndexDamaged as error:
        return [_damage("skipped", error, repairable=True)]
    return []


def _check_judgements(store: Store) -> list[Finding]:
    """What people said cannot be made again, so nothing is mended here."""
    try:
        store.judgements()
    except IndexDamaged as error:
        return [_damage("judgements", error)]
    return []


def _check_encoder(store: Store, encoder: Callable[[Store], Encoder]) -> list[Finding]:
    try:
        encoder(store)
    except EncoderError as error:
        what, _, advice = str(error).partition(". ")
        return [Finding(part="encoder", path=store.encoder.name, what=what, advice=advice)]
    return []


def _remembered(store: Store) -> list[dict[str, Any]]:
    table = store.files()
    table = table.filter(pc.and_(pc.equal(table["kind"], "image"), pc.is_valid(table["path"])))
    rows: list[dict[str, Any]] = table.sort_by("path").to_pylist()
    return rows


def _check_files(store: Store) -> Iterator[Finding]:
    away = Counter[Path]()  # folders that were indexed and whose disk may not be mounted
    roots = [Path(os.path.normpath(store.root / path)) for path in store.manifest.roots]
    empty = [root for root in roots if not root.is_dir() or not any(root.iterdir())]
    for row in _remembered(store):
        file = Path(os.path.normpath(store.root / row["path"]))
        home = next((root for root in empty if file.is_relative_to(root)), None)
        if home is not None:
            away[home] += 1
            continue
        try:
            found = stat_file(file)
            changed = found.size_bytes != row["size_bytes"]
            if not changed and found.mtime_ns != row["mtime_ns"]:
                changed = content_hash(read_file(file)) != row["content_hash"]
        except UnreadableImage as error:
            gone = error.reason == "vanished"
            what = "is gone" if gone else f"cannot be read ({error.reason.replace('_', ' ')})"
            advice = "Index its folder again, or restore the file." if gone else "Look at the file."
            yield Finding(part="file", path=row["path"], what=what, advice=advice)
            continue
        if changed:
            advice = "Index its folder again."
            what = "changed since it was indexed"
            yield Finding(part="file", path=row["path"], what=what, advice=advice)
    for home, n in away.items():
        yield Finding(
            part="file",
            path=relative_path(home, store.root),
            what=f"is {'empty' if home.exists() else 'not there'}, and {n:,} files with it",
            advice="Mount its disk, or run `prolip-search index --prune`.",
        )
