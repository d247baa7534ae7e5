"""manifest.json: which format this index has, whose Gaussians it holds and in which table."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args

from prolip_search.distances import MatchLogit
from prolip_search.errors import IndexDamaged, IndexNotFound, IndexTooNew
from prolip_search.indexes.durable import own_checksum, replace_file, writes

IndexKind = Literal["auto", "flat", "ivf"]

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
# A manifest has a few hundred bytes; what is larger is something else.
LARGEST_MANIFEST_BYTES = 1 << 20
LARGEST_DIM = 1 << 16
ITEMS_TABLE = re.compile(r"items-[0-9a-f]{8}(-[0-9]{1,6})?\.lance")


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """What an index remembers of the encoder that made its Gaussians.

    name: "mini", a folder, or a hub id; revision: the pinned commit of a hub id, else None.
    fingerprint: 64 hex digits over weights, configuration, tokenizer and preprocessing.
    Raises ValueError for values that no encoder has.
    """

    name: str
    fingerprint: str
    dim: int
    match_logit: MatchLogit
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("An encoder record needs the encoder's name.")
        if not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint):
            raise ValueError(f"A fingerprint is 64 hex digits, not {self.fingerprint!r}.")
        if not 1 <= self.dim <= LARGEST_DIM:
            raise ValueError(f"A dimension lies in 1 to {LARGEST_DIM}, not {self.dim}.")


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How the derived index is made.

    kind: "flat" compares every row and is exact; "ivf" looks at some lists of rows; "auto" takes
    the first for small collections and the second for large ones. recall: what share of the ten
    nearest an approximate kind has to find, in 0.5 to 0.999. Raises ValueError.
    """

    kind: IndexKind = "auto"
    recall: float = 0.95

    def __post_init__(self) -> None:
        if self.kind not in get_args(IndexKind):
            kinds = ", ".join(get_args(IndexKind))
            raise ValueError(f"An index is of kind {kinds}, not {self.kind!r}.")
        if not 0.5 <= self.recall <= 0.999:
            raise ValueError(f"A recall lies in 0.5 to 0.999, not {self.recall}.")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json. items_table: a folder name beside the manifest.

    replaced: items tables that this one took the place of, to be dropped. roots: the folders that
    were indexed, relative to the folder that holds the index, as paths of items are. calibration:
    what was fitted from the judgements, as JSON that this room does not look into; derived.
    """

    encoder: EncoderRecord
    items_table: str
    replaced: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    index: IndexSettings = IndexSettings()
    calibration: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """The file's text: sorted keys, two spaces, a newline at the end."""
        encoder = self.encoder
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "items_table": self.items_table,
            "index": {"kind": self.index.kind, "recall": self.index.recall},
            "encoder": {
                "name": encoder.name,
                "fingerprint": encoder.fingerprint,
                "dim": encoder.dim,
                "revision": encoder.revision,
                "match_logit": {
                    "scale": encoder.match_logit.scale,
                    "bias": encoder.match_logit.bias,
                },
            },
        }
        content |= {"replaced": list(self.replaced)} if self.replaced else {}
        content |= {"roots": list(self.roots)} if self.roots else {}
        content |= {"calibration": self.calibration} if self.calibration else {}
        content["checksum"] = own_checksum(content)
        return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def items_table_name(fingerprint: str, *, taken: Collection[str] = ()) -> str:
    """items-<first 8 hex digits of the encoder's fingerprint>.lance.

    Where that name is taken: items-<…>-2.lance, or the next number that is free.
    """
    stem = f"items-{fingerprint[:8]}"
    names = (f"{stem}-{number}.lance" if number > 1 else f"{stem}.lance" for number in count(1))
    return next(name for name in names if name not in taken)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces manifest.json at once. Raises IndexNotWritable."""
    with writes(MANIFEST_NAME, folder):
        replace_file(folder / MANIFEST_NAME, manifest.to_json().encode())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the index at `folder`. Raises IndexNotFound, IndexTooNew, IndexDamaged."""
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > LARGEST_MANIFEST_BYTES:
            raise _damaged(path, f"it has more than {LARGEST_MANIFEST_BYTES} bytes")
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexNotFound(
            f"There is no index at {folder}. Make one with `prolip-search index FOLDER`.",
            path=folder,
        ) from error
    except (OSError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it is not a JSON object")
    version = _field(path, content, "format_version", int)
    if version > FORMAT_VERSION:
        raise IndexTooNew(
            f"{path} has format version {version}, but this prolip-search reads up to "
            f"{FORMAT_VERSION}. Upgrade with `pip install --upgrade prolip-search`.",
            path=path,
        )
    if version < 1:
        raise _damaged(path, f"format_version is {version}")
    if content.get("checksum") not in (None, own_checksum(content)):
        raise _damaged(path, "it does not match its checksum (null after a change by hand)")
    table = _field(path, content, "items_table", str)
    # The name is joined to a path, so anything but a plain table name is refused.
    if not ITEMS_TABLE.fullmatch(table):
        raise _damaged(path, f"items_table is {table!r}")
    encoder = _field(path, content, "encoder", dict)
    logit = _field(path, encoder, "match_logit", dict)
    revision = encoder.get("revision")
    if revision is not None and not isinstance(revision, str):
        raise _damaged(path, "encoder.revision is neither text nor null")
    try:
        return Manifest(
            items_table=table,
            replaced=tuple(
                n for n in _names(path, content, "replaced") if ITEMS_TABLE.fullmatch(n)
            ),
            roots=_names(path, content, "roots"),
            index=_index_settings(path, content),
            calibration=_calibration(content),
            encoder=EncoderRecord(
                name=_field(path, encoder, "name", str),
                fingerprint=_field(path, encoder, "fingerprint", str),
                dim=_field(path, encoder, "dim", int),
                revision=revision,
                match_logit=MatchLogit(
                    scale=float(_field(path, logit, "scale", int | float)),
                    bias=float(_field(path, logit, "bias", int | float)),
                ),
            ),
        )
    except IndexDamaged:
        raise
    except (ValueError, OverflowError) as error:
        raise _damaged(path, str(error)) from error


def _index_settings(path: Path, content: dict[str, Any]) -> IndexSettings:
    """Older manifests have none: the defaults, then."""
    if "index" not in content:
        return IndexSettings()
    settings = _field(path, content, "index", dict)
    kind = _field(path, settings, "kind", str)
    return IndexSettings(kind=kind, recall=float(_field(path, settings, "recall", int | float)))


def _calibration(content: dict[str, Any]) -> dict[str, Any] | None:
    """It is derived, so what cannot be one is as good as none."""
    found = content.get("calibration")
    return found if isinstance(found, dict) else None


def _field(path: Path, content: dict[str, Any], name: str, kind: Any) -> Any:
    value = content.get(name)
    # bool is an int to Python and a mistake to us.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _damaged(path, f"{name} is missing or of the wrong type")
    return value


def _names(path: Path, content: dict[str, Any], name: str) -> tuple[str, ...]:
    values = content.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _damaged(path, f"{name} is no list of texts")
    return tuple(values)


def _damaged(path: Path, what: str) -> IndexDamaged:
    return IndexDamaged(
        f"{path} is damaged: {what}. Restore it from a backup, or build the index anew with "
        "`prolip-search index --rebuild`.",
        path=path,
    )
