"""From torch towers to ONNX graphs: once per fingerprint, checked, and put in place by one rename.

Each graph is exported with a free batch size (and, where the tower masks padding, a free length),
optimised once so that a query need not, and run against torch on drawn photos and real sentences.
An export whose unit means differ by more than `MEAN_TOLERANCE` is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from prolip_search.encoders.encoder import EncoderParts
from prolip_search.encoders.onnx import (
    EXPORT_FORMAT,
    RECORD,
    TOWERS,
    TowerName,
    cached_export,
    export_folder,
    make_session,
)
from prolip_search.errors import ExportError

__all__ = ["export_towers"]

MEAN_TOLERANCE = 1e-4  # of each coordinate of a unit mean; float32 runtimes differ by about 1e-6
LOG_VARIANCE_TOLERANCE = 1e-3
ABANDONED_AFTER_S = 86_400
# Longer than need be: the exporter calls inner values after operations ("mean"), and a clash is an
# invalid graph.
INPUT = "tower_input"
OUTPUTS = ("tower_mean", "tower_log_variance")

SENTENCES = (
    "a dog",
    "Two children play football on the wet grass in front of an old stone church.",
    "snow",
    "",
    "A man in a red jacket and a woman with an umbrella wait for the tram at night while it rains, "
    "and behind them the windows of a bakery are still lit.",
)


def export_towers(parts: EncoderParts, progress: Callable[[str], None]) -> Path:
    """The folder of checked graphs for an encoder, made now unless another process was faster.

    Raises ExportError when the export fails or disagrees with torch, OSError when the cache folder
    cannot be written.
    """
    folder = export_folder(parts.fingerprint)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        module = parts.build_module().float().cpu().eval()
        differences: dict[str, dict[str, float]] = {}
        for tower in TOWERS:
            progress(f"Preparing the {tower} encoder for this machine (once)…")
            samples = _samples(parts, tower)
            graph = _Graph(module, tower)
            _export(graph, samples, work, tower, dynamic_length=parts.dynamic_text)
            differences[tower] = _check(graph, samples, work / f"{tower}.onnx", tower)
        files = {path.name: _flushed_bytes(path) for path in sorted(work.iterdir())}
        record = {
            "format": EXPORT_FORMAT,
            "fingerprint": parts.fingerprint,
            "encoder": parts.name,
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "largest_difference_from_torch": differences,
            "files": files,
        }
        (work / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        _put_in_place(work, folder, parts.fingerprint)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress("The encoder is ready.")
    return folder


class _Graph(nn.Module):
    """One tower as a module with one input, which is what the exporter wants."""

    def __init__(self, module: Any, tower: TowerName) -> None:
        super().__init__()
        self.module = module
        self.tower = tower
        self.eval()

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's own result."""
        if self.tower == "image":
            mean, log_variance = self.module.encode_image(values)
        else:
            mean, log_variance = self.module.encode_text(values)
        return mean, log_variance


def _export(
    graph: _Graph,
    samples: list[npt.NDArray[Any]],
    work: Path,
    tower: TowerName,
    *,
    dynamic_length: bool,
) -> None:
    """Write <tower>.onnx and its weights, optimised as far as holds for every processor."""
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if tower == "text" and dynamic_length:
        free[1] = torch.export.Dim.DYNAMIC
    raw, final = work / f"{tower}.raw.onnx", work / f"{tower}.onnx"
    try:
        # The exporter warns about its own internals; nothing in that is for a user to act upon.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (torch.from_numpy(samples[0]),),
                str(raw),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=(free,),
                dynamo=True,
                external_data=True,  # graphs beyond 2 GB need it, and mapped weights load at once
                verbose=False,
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Beyond "extended" the result would hold for this processor alone.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(final)
        for key, value in (
            ("session.optimized_model_external_initializers_file_name", f"{final.name}.data"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ):
            options.add_session_config_entry(key, value)
        onnxruntime.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise  # a full disk is no fault of the encoder
    except Exception as error:  # torch's exporter and ONNX Runtime raise dozens of classes
        raise ExportError(
            f"The {tower} tower could not be exported to ONNX ({error}). Use runtime torch instead."
        ) from error
    for path in work.glob(f"{tower}.raw.onnx*"):
        path.unlink()


def _check(
    graph: _Graph, samples: list[npt.NDArray[Any]], path: Path, tower: TowerName
) -> dict[str, float]:
    """Run the graph beside torch, in every kind of session; the largest differences found.

    Raises ExportError beyond the tolerances.
    """
    worst_mean = worst_log_variance = 0.0
    for quick in (True, False) if tower == "text" else (False,):
        session = make_session(path, quick=quick)
        for values in samples:
            mean, log_variance = session.run(list(OUTPUTS), {INPUT: values})
            with torch.no_grad():
                torch_mean, torch_log_variance = graph(torch.from_numpy(values))
            apart = np.abs(_unit(mean) - _unit(torch_mean.numpy())).max()
            worst_mean = max(worst_mean, float(apart))
            apart = np.abs(log_variance - torch_log_variance.numpy()).max()
            worst_log_variance = max(worst_log_variance, float(apart))
    # written so that NaN, which compares false with everything, is refused as well
    if not (worst_mean <= MEAN_TOLERANCE and worst_log_variance <= LOG_VARIANCE_TOLERANCE):
        raise ExportError(
            f"The exported {tower} tower differs from torch by {worst_mean:.2g} in the unit mean "
            f"(allowed {MEAN_TOLERANCE:g}) and {worst_log_variance:.2g} in the log-variance "
            f"(allowed {LOG_VARIANCE_TOLERANCE:g}), so it is not used. Use runtime torch instead."
        )
    return {"unit_mean": worst_mean, "log_variance": worst_log_variance}


def _samples(parts: EncoderParts, tower: TowerName) -> list[npt.NDArray[Any]]:
    """Inputs of several batch sizes (and lengths): the first, of two rows, is what is traced."""
    if tower == "image":
        images = [parts.preprocessing.prepare(image) for image in _drawn_photos()]
        pixels = parts.preprocessing.normalise(np.stack(images))
        return [pixels[:2], pixels[2:3], pixels]
    tokenizer = parts.load_tokenizer()
    return [
        tokenizer(SENTENCES[:2]),
        *(tokenizer([text]) for text in SENTENCES),
        tokenizer(SENTENCES),
    ]


def _drawn_photos() -> list[Image.Image]:
    """Five pictures with large and small structure, the same on every machine."""
    random = np.random.default_rng(20260)
    photos = [Image.new("RGB", (320, 240), (90, 140, 60))]
    for grid in (2, 5, 17, 80):
        noise = random.integers(0, 256, (grid, grid, 3), dtype=np.uint8)
        photos.append(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))
    return photos


def _flushed_bytes(path: Path) -> int:
    """The size of a file, once it is on the disk: a power cut must not leave zeros of that size."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return path.stat().st_size


def _unit(mean: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = mean.astype(np.float64)
    unit: npt.NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _put_in_place(work: Path, folder: Path, fingerprint: str) -> None:
    """Rename the finished folder into place; whole exports of other processes are left alone."""
    work.chmod(0o755)  # mkdtemp makes it private
    try:
        work.rename(folder)
        return
    except OSError:
        if cached_export(fingerprint) is not None:
            return  # another process was faster
    stale = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    folder.rename(stale / "stale")
    work.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Delete what exports that were killed have left behind."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
            shutil.rmtree(path, ignore_errors=True)
