"""The towers run by ONNX Runtime on the CPU: the fast path of queries and of indexing.

Graphs come from `onnx_export`, which needs torch; running them does not. A folder of graphs:

    <cache>/onnx/<first 16 digits of the fingerprint>/
      export.json                     what was exported, with which versions, and how it was checked
      image.onnx  image.onnx.data     a graph and its weights, which are mapped and not read
      text.onnx   text.onnx.data
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from prolip_search.encoders.cache import cache_folder
from prolip_search.encoders.protocol import Pixels, TowerOutput
from prolip_search.errors import ExportError

__all__ = ["OnnxTowers", "TowerName", "cached_export", "export_folder", "make_session"]

TowerName = Literal["image", "text"]
TOWERS: tuple[TowerName, ...] = ("image", "text")

EXPORT_FORMAT = 1  # raise it when the graphs or their names change: older exports are made again
RECORD = "export.json"

FEW_ROWS = 4  # up to here a call is a query, beyond it a batch
FEW_CALLS = 24  # so many queries pay for a session that answers faster
SMALL_GRAPH_BYTES = 200_000_000  # above it one thread is too slow even for one text


class OnnxTowers:
    """Both towers from a folder of graphs, each loaded at its first call.

    The first few texts run in a session made for a quick start: one thread, weights used where
    they lie. The first batch, or the 24th call, replaces it by one made for throughput. Images
    always run in the latter: what a quick start saves, the first image would cost again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._image = _Tower(folder / "image.onnx", quick_start=False)
        self._text = _Tower(folder / "text.onnx", quick_start=True)

    def image(self, pixels: Pixels) -> TowerOutput:
        """Normalised pixels [B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        return self._image.run(pixels)

    def text(self, ids: npt.NDArray[np.int64]) -> TowerOutput:
        """Token ids [B, L] -> raw mean [B, D], log-variance [B, D]."""
        return self._text.run(ids)


class _Tower:
    """One graph and the session that runs it at the moment."""

    def __init__(self, path: Path, *, quick_start: bool) -> None:
        self._path = path
        self._quick_start = quick_start
        self._session: Any = None
        self._quick = False
        self._n_calls = 0
        self._lock = threading.Lock()

    def run(self, values: Any) -> TowerOutput:
        """[B, ...] -> mean [B, D], log-variance [B, D]."""
        session = self._session_for(len(values))
        mean, log_variance = session.run(None, {session.get_inputs()[0].name: values})
        return mean, log_variance

    def _session_for(self, n_rows: int) -> Any:
        with self._lock:
            self._n_calls += 1
            few = n_rows <= FEW_ROWS and self._n_calls < FEW_CALLS
            quick = self._quick_start and few
            if self._session is None or (self._quick and not quick):
                self._session = None  # free the old one before the new one needs memory
                self._session = make_session(self._path, quick=quick)
                self._quick = quick
            return self._session


def make_session(path: Path, *, quick: bool) -> Any:
    """An ONNX Runtime session for one graph. Raises ExportError when it cannot be loaded.

    quick: start at once; the graph on disk is optimised already, and weights are not repacked.
    Otherwise: every optimisation, all cores.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings are about the optimiser's own choices
    # A spinning worker burns a core that image decoding could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = _n_cores()
    if quick:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        if _graph_bytes(path) < SMALL_GRAPH_BYTES:
            options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the package's exceptions have no common class but this one
        raise ExportError(
            f"ONNX Runtime cannot load {path} ({error}). Delete {path.parent}: it is made again."
        ) from error


def export_folder(fingerprint: str) -> Path:
    """Where the graphs of an encoder lie, whether they are there or not."""
    return cache_folder("onnx") / fingerprint[:16]


def cached_export(fingerprint: str) -> Path | None:
    """The folder of graphs made for this fingerprint by these versions, or None.

    Sizes are compared, so a graph that was cut short on disk is made again.
    """
    folder = export_folder(fingerprint)
    try:
        record = json.loads((folder / RECORD).read_bytes())
        whole = all(
            (folder / name).stat().st_size == size for name, size in record["files"].items()
        )
        same = (
            record["format"] == EXPORT_FORMAT
            and record["fingerprint"] == fingerprint
            and record["onnxruntime"] == onnxruntime.__version__
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if whole and same else None


def _graph_bytes(path: Path) -> int:
    data = path.with_name(path.name + ".data")
    return data.stat().st_size if data.exists() else 0


def _n_cores() -> int:
    """Cores this process may use; OMP_NUM_THREADS lowers it, as it does for torch and FAISS."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(allowed, int(wished) if wished.isdecimal() else allowed))
