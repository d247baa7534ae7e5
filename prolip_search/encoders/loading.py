"""From a name to an encoder that is ready to be asked: `mini`, a folder, or a hub id.

Nothing heavy happens here: weights are read, graphs exported and torch imported at the first image
or text that needs them, and a text query on a machine that has been used before needs none of it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from prolip_search.encoders.encoder import EncoderParts, TowerEncoder
from prolip_search.errors import ConfigError, EncoderNotFound

if TYPE_CHECKING:
    from prolip_search.encoders.checkpoint import ReleasedFolder
    from prolip_search.encoders.protocol import Pixels, TowerOutput, Towers
    from prolip_search.encoders.tokenizers import TextTokenizer

__all__ = ["Runtime", "encoder_fingerprint", "encoder_parts", "load_encoder"]

logger = logging.getLogger(__name__)

Runtime = Literal["auto", "onnx", "torch"]
RUNTIMES = ("auto", "onnx", "torch")
MINI = "mini"
# Fewer texts than these are a query, not worth importing torch for.
TEXTS_FOR_GPU = 32


def load_encoder(
    name_or_path: str | Path = MINI,
    *,
    runtime: Runtime = "auto",
    revision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> TowerEncoder:
    """An encoder by name: `mini` (bundled), a folder (released layout or adapter), or a hub id.

    runtime: "onnx" runs on the CPU, from graphs that are exported once (with a message to
    `progress`, or to the log); "torch" on a GPU where there is one; "auto" is onnx, and torch for
    images and large batches of texts where there is a GPU. revision: commit, branch or tag of a
    hub id. Raises EncoderNotFound, CheckpointError, ConfigError.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"There is no runtime {runtime!r}; use auto, onnx or torch.")
    parts = encoder_parts(name_or_path, revision=revision)
    tell = progress or logger.info
    if runtime == "torch":
        return TowerEncoder(parts, _WhenNeeded(lambda: _load_torch(parts)))
    exported = _WhenNeeded(lambda: _load_exported(parts, tell))
    if runtime == "onnx":
        return TowerEncoder(parts, exported)
    # Whether there is a GPU is asked when there is work for it: asking may cost importing torch.
    many = _WhenNeeded(lambda: _load_torch(parts) if _has_gpu() else exported.towers)
    return TowerEncoder(parts, _AutoTowers(few=exported, many=many))


def encoder_fingerprint(name_or_path: str | Path = MINI, *, revision: str | None = None) -> str:
    """The fingerprint alone: no tower is loaded, and weights are hashed at most once ever."""
    return encoder_parts(name_or_path, revision=revision).fingerprint


def encoder_parts(name_or_path: str | Path = MINI, *, revision: str | None = None) -> EncoderParts:
    """Everything about an encoder but what runs it. Raises as `load_encoder` does."""
    name = str(name_or_path)
    if name == MINI:
        _refuse_revision(revision, "the bundled encoder")
        from prolip_search.encoders.mini import mini_parts

        return mini_parts()
    folder = Path(name_or_path).expanduser()
    if name and folder.is_dir():
        _refuse_revision(revision, "a local folder")
        from prolip_search.encoders.adapter import adapter_parts, is_adapter
        from prolip_search.encoders.checkpoint import ReleasedFolder

        if is_adapter(folder):
            return adapter_parts(folder, name)

        return _released_parts(name, None, ReleasedFolder.open(folder))
    from prolip_search.encoders.hub import fetch_released, looks_like_hub_id, name_hint

    if isinstance(name_or_path, Path) or not looks_like_hub_id(name):
        raise EncoderNotFound(
            f"There is no encoder {name!r}: it is neither mini, nor a folder here, nor a hub id "
            f"such as SanghyukChun/ProLIP-ViT-B-16-DC-1B-12_8B.{name_hint(name)}"
        )
    released, commit = fetch_released(name, revision)
    return _released_parts(name, commit, released)


def _refuse_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise ConfigError(f"A revision belongs to a hub id; {what} has none. Leave it out.")


def _released_parts(name: str, revision: str | None, released: ReleasedFolder) -> EncoderParts:
    from prolip_search.encoders.checkpoint import load_prolip, read_identity

    identity = read_identity(released)
    return EncoderParts(
        name=name,
        revision=revision,
        dim=released.config.embed_dim,
        match_logit=identity.match_logit,
        fingerprint=identity.fingerprint,
        preprocessing=released.preprocessing,
        vocab_size=released.config.text.vocab_size,
        dynamic_text=False,
        load_tokenizer=lambda: _released_tokenizer(released),
        build_module=lambda: load_prolip(released),
    )


def _released_tokenizer(released: ReleasedFolder) -> TextTokenizer:
    from prolip_search.encoders.tokenizers import CLIP_VOCABULARY, ClipTokenizer, PieceTokenizer

    text = released.config.text
    if text.vocab_size == CLIP_VOCABULARY:
        return ClipTokenizer(text.context_length, clean=text.clean)
    if released.tokenizer is None:
        raise EncoderNotFound(
            f"There is no tokenizer.json in {released.weights.parent}; copy there the one of "
            f"{text.tokenizer_name or 'the repository that the weights were trained with'}."
        )
    return PieceTokenizer(released.tokenizer, text.context_length, clean=text.clean)


def _load_exported(parts: EncoderParts, progress: Callable[[str], None]) -> Towers:
    """ONNX graphs, exported now where they are not; torch where they cannot be kept."""
    from prolip_search.encoders.onnx import OnnxTowers, cached_export

    folder = cached_export(parts.fingerprint)
    if folder is None:
        from prolip_search.encoders.onnx_export import export_towers

        try:
            folder = export_towers(parts, progress)
        except OSError as error:
            logger.warning(
                "The ONNX graphs cannot be kept (%s), so torch runs the encoder, which starts "
                "slower; set PROLIP_SEARCH_CACHE to a folder that can be written.",
                error,
            )
            return _load_torch(parts)
    return OnnxTowers(folder)


def _load_torch(parts: EncoderParts) -> Towers:
    from prolip_search.encoders.torch_runtime import TorchTowers

    return TorchTowers(parts.build_module)


class _WhenNeeded:
    """Towers that are made at the first call."""

    def __init__(self, make: Callable[[], Towers]) -> None:
        self._make = make
        self._towers: Towers | None = None
        self._lock = threading.Lock()

    @property
    def towers(self) -> Towers:
        """The towers themselves."""
        with self._lock:
            if self._towers is None:
                self._towers = self._make()
            return self._towers

    def image(self, pixels: Pixels) -> TowerOutput:
        """Normalised pixels [B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        return self.towers.image(pixels)

    def text(self, ids: npt.NDArray[np.int64]) -> TowerOutput:
        """Token ids [B, L] -> raw mean [B, D], log-variance [B, D]."""
        return self.towers.text(ids)


class _AutoTowers:
    """A few texts by what starts at once; images and many texts by what is fastest at work."""

    def __init__(self, few: Towers, many: Towers) -> None:
        self._few = few
        self._many = many

    def image(self, pixels: Pixels) -> TowerOutput:
        """Normalised pixels [B, 3, H, W] -> raw mean [B, D], log-variance [B, D]."""
        return self._many.image(pixels)

    def text(self, ids: npt.NDArray[np.int64]) -> TowerOutput:
        """Token ids [B, L] -> raw mean [B, D], log-variance [B, D]."""
        return (self._many if len(ids) >= TEXTS_FOR_GPU else self._few).text(ids)


def _has_gpu() -> bool:
    """Whether torch would find a GPU, without importing torch where there is clearly none."""
    drivers = ("/proc/driver/nvidia/version", "/dev/kfd")  # NVIDIA's, AMD's
    if "torch" not in sys.modules and not any(Path(driver).exists() for driver in drivers):
        # Windows has no such files; a wrong "no" costs speed there, and runtime torch overrides it.
        return False
    import torch

    return torch.cuda.is_available()
