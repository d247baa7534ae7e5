"""What an index holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prolip_search.answering import confidence_model
from prolip_search.calibration_report import CalibrationReport, calibration_report
from prolip_search.indexes.manifest import EncoderRecord
from prolip_search.indexes.store import Store
from prolip_search.indexes.view import IndexFacts
from prolip_search.results import absolute


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStatus:
    """What an index holds. n_skipped: files left out, by reason. size_bytes: on disk, all of it.

    roots: the folders that were indexed, absolute.
    index: what answers a search, and the recall it was measured to have where it is not exact.
    n_remembered: queries in the history.
    """

    folder: Path
    root: Path
    roots: Sequence[Path]
    encoder: EncoderRecord
    n_images: int
    n_texts: int
    n_skipped: Mapping[str, int]
    size_bytes: int
    version: int
    index: IndexFacts
    calibration: CalibrationReport
    n_remembered: int

    def to_dict(self) -> dict[str, Any]:
        """JSON's types only; a stable schema."""
        encoder = self.encoder
        return {
            "folder": str(self.folder),
            "root": str(self.root),
            "roots": [str(root) for root in self.roots],
            "n_images": self.n_images,
            "n_texts": self.n_texts,
            "n_skipped": sum(self.n_skipped.values()),
            "skipped_by_reason": dict(self.n_skipped),
            "size_bytes": self.size_bytes,
            "version": self.version,
            "index": asdict(self.index),
            "encoder": {
                "name": encoder.name,
                "revision": encoder.revision,
                "fingerprint": encoder.fingerprint,
                "dim": encoder.dim,
            },
            "calibration": {
                "status": self.calibration.kinds["text"].status,  # of what is mostly asked with
                "fitted_at": self.calibration.fitted_at,
                "kinds": self.calibration.to_dict()["kinds"],
            },
            "history": {"n_queries": self.n_remembered},
        }


def index_status(store: Store) -> IndexStatus:
    """The status of an opened index; reads no vector and loads no encoder."""
    files = [file for file in store.folder.rglob("*") if file.is_file()]
    return IndexStatus(
        folder=store.folder,
        root=store.root,
        roots=[absolute(store.root, path) for path in store.manifest.roots],
        encoder=store.encoder,
        n_images=store.count("image"),
        n_texts=store.count("text"),
        n_skipped=Counter(sorted(store.skipped()["reason"].to_pylist())),
        size_bytes=sum(file.stat().st_size for file in files),
        version=store.version,
        index=store.index_facts,
        calibration=calibration_report(confidence_model(store)),
        n_remembered=len(store.history.read()),
    )
