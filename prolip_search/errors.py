"""Every error that prolip-search raises on purpose.

    ProlipSearchError
    ├── InvalidGaussians          (ValueError)         arrays that are not Gaussians
    │   └── DimensionMismatch                          Gaussians of different dimension
    ├── ConfigError               (ValueError)         a configuration or recipe with wrong content
    ├── EncoderError
    │   ├── EncoderNotFound       (FileNotFoundError)  no such encoder here, or offline
    │   ├── CheckpointError       (ValueError)         weights that do not fit their configuration
    │   ├── EncoderMismatch       (ValueError)         another encoder than the index was built with
    │   └── ExportError           (RuntimeError)       ONNX export failed or disagrees with torch
    ├── MissingExtra              (ImportError)        an optional package is not installed
    ├── StoreError
    │   ├── IndexNotFound         (FileNotFoundError)
    │   ├── IndexExists           (FileExistsError)
    │   ├── IndexDamaged          (ValueError)         bytes on disk are not what was written
    │   ├── IndexTooNew           (ValueError)         written by a newer prolip-search
    │   ├── IndexLocked           (BlockingIOError)    another process is writing
    │   └── IndexNotWritable      (OSError)            read-only folder or full disk
    ├── UnreadableImage           (ValueError)         with a reason; counted, listed and skipped
    ├── QueryError                (ValueError)         a query or option that makes no sense
    │   └── ItemNotFound          (KeyError)           no such item in the index
    └── TrainingError             (RuntimeError)
        └── TrainingDataError     (ValueError)         missing or unusable training data

Messages say what happened, with the values, and then what to type.
"""

from __future__ import annotations

from pathlib import Path


class ProlipSearchError(Exception):
    """The root of the tree above: catch it to catch everything of ours."""


class InvalidGaussians(ProlipSearchError, ValueError):
    """Arrays that do not describe Gaussians: wrong shape, not finite, or means not unit vectors."""


class DimensionMismatch(InvalidGaussians):
    """Gaussians of different dimension were put together."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"The dimensions differ: expected {expected}, found {found}. "
            "Encode both sides with the same encoder."
        )
        self.expected = expected
        self.found = found


class ConfigError(ProlipSearchError, ValueError):
    """A configuration file or recipe with an unknown key or an impossible value."""


class EncoderError(ProlipSearchError):
    """Something about an encoder."""


class EncoderNotFound(EncoderError, FileNotFoundError):
    """The named encoder is not here and could not be fetched."""

    # OSError's own __str__ prints errno tuples; ours prints the message alone.
    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(EncoderError, ValueError):
    """Weights that do not fit their configuration, or a file that is not a checkpoint."""


class EncoderMismatch(EncoderError, ValueError):
    """The index holds Gaussians of another encoder than the one at hand."""

    def __init__(
        self, *, index_name: str, index_fingerprint: str, name: str, fingerprint: str
    ) -> None:
        super().__init__(
            f"The index was built with encoder {index_fingerprint[:8]} ({index_name}) "
            f"but this one is {fingerprint[:8]} ({name}). "
            "Open it with the first, or run `prolip-search index --rebuild`."
        )
        self.index_name = index_name
        self.index_fingerprint = index_fingerprint
        self.name = name
        self.fingerprint = fingerprint


class ExportError(EncoderError, RuntimeError):
    """The ONNX export failed, or its outputs differ from torch beyond the stated tolerance."""


class MissingExtra(ProlipSearchError, ImportError):
    """An optional package is not installed; the message holds the install line."""


class StoreError(ProlipSearchError):
    """Something about an index on disk."""

    def __init__(self, message: str, *, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])


class IndexNotFound(StoreError, FileNotFoundError):
    """There is no index at, or above, the given folder."""


class IndexExists(StoreError, FileExistsError):
    """An index is there already."""


class IndexDamaged(StoreError, ValueError):
    """The bytes on disk are not what was written."""


class IndexTooNew(StoreError, ValueError):
    """The index was written in a format that this version does not know."""


class IndexLocked(StoreError, BlockingIOError):
    """Another process is writing to the index."""


class IndexNotWritable(StoreError, OSError):
    """The index folder is read-only, or the disk is full."""


class UnreadableImage(ProlipSearchError, ValueError):
    """A file that cannot be indexed, with its reason class: counted, listed and skipped.

    reason: one of "empty", "not_an_image", "truncated", "too_large", "permission", "vanished",
    "unsupported", "damaged".
    """

    def __init__(self, path: Path, reason: str, detail: str = "") -> None:
        super().__init__(f"{path}: {reason.replace('_', ' ')}" + (f" ({detail})" if detail else ""))
        self.path = path
        self.reason = reason
        self.detail = detail


class QueryError(ProlipSearchError, ValueError):
    """A query or a search option that makes no sense."""


class ItemNotFound(QueryError, KeyError):
    """No such item in the index."""

    # KeyError's own __str__ prints the repr of the message.
    def __str__(self) -> str:
        return str(self.args[0])


class TrainingError(ProlipSearchError, RuntimeError):
    """A training run that cannot go on."""


class TrainingDataError(TrainingError, ValueError):
    """Training data that is missing or unusable."""
