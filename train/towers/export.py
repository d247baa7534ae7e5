"""What leaves training: a folder in the released layout, which `load_encoder` and `index` take.

    config.json         the released constructor arguments and nothing else, so that the official
                        loader, which hands them on as they are, reads it as well
    model.safetensors   float32, under the released names
    tokenizer.json      unless the vocabulary is CLIP's, which comes with a package
    training.json       what the run was: for people, part of no fingerprint

Each file is written beside its place and renamed, the configuration last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from prolip_search.encoders.checkpoint import check_weights
from prolip_search.encoders.config import ProLIPConfig
from prolip_search.encoders.prolip import ProLIP
from prolip_search.encoders.tokenizers import CLIP_VOCABULARY, PieceTokenizer
from prolip_search.errors import CheckpointError, ConfigError, TrainingError
from prolip_search.train.whole_files import write_whole

__all__ = ["WRAPPERS", "expected_shapes", "export_released", "without_wrappers"]

# What the wrappers of torch put before every name: DataParallel and DDP, then torch.compile.
WRAPPERS = ("module.", "_orig_mod.")


def export_released(
    model: ProLIP | Mapping[str, Tensor],
    config: ProLIPConfig,
    folder: Path,
    *,
    tokenizer: Path | None,
    training: Mapping[str, Any],
) -> Path:
    """Write towers into a folder in the released layout, and give the folder.

    model: the towers, or their state dict (an average of weights, say), of any float dtype;
    the prefixes of DDP and torch.compile are taken off. tokenizer: the `tokenizer.json` that the
    run was fed by; None for CLIP's vocabulary. training: recipe, seed, figures, JSON-ready.
    Raises ConfigError for a tokenizer that is missing or does not fit, CheckpointError for weights
    that are not those of `config` or not finite, TrainingError where the disk refuses.
    """
    _check_tokenizer(tokenizer, config)
    state = model.state_dict() if isinstance(model, ProLIP) else without_wrappers(model)
    weights = {
        name: value.detach().to("cpu", torch.float32).contiguous() for name, value in state.items()
    }
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{broken[0]} holds numbers that are not finite ({len(broken)} such tensors): the run "
            "has diverged. Export an earlier checkpoint."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "training.json", lambda path: path.write_text(_json(training)))
        write_whole(folder / "model.safetensors", lambda path: _save(weights, path, config))
        if tokenizer is not None and tokenizer.resolve() != (folder / "tokenizer.json").resolve():
            write_whole(folder / "tokenizer.json", lambda path: shutil.copyfile(tokenizer, path))
        write_whole(folder / "config.json", lambda path: path.write_text(_json(config.to_json())))
    except (OSError, SafetensorError) as error:  # the latter for a disk that is full
        raise TrainingError(
            f"The encoder cannot be written to {folder} ({error}); make room there or give another "
            "folder."
        ) from error
    return folder


def expected_shapes(config: ProLIPConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of these towers, without allocating one."""
    with torch.device("meta"):
        state = ProLIP.from_config(config).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under its plain names, whatever the module was wrapped in."""
    plain = {}
    for name, value in state.items():
        while name.startswith(WRAPPERS):
            name = name.split(".", 1)[1]
        plain[name] = value
    return plain


def _check_tokenizer(tokenizer: Path | None, config: ProLIPConfig) -> None:
    n_known = config.text.vocab_size
    if n_known == CLIP_VOCABULARY:
        if tokenizer is not None:
            raise ConfigError(
                f"A vocabulary of {CLIP_VOCABULARY:,} is CLIP's, whose tokenizer comes with "
                f"open_clip: leave {tokenizer} out, or give the towers another vocab_size."
            )
        return
    if tokenizer is None:
        raise ConfigError(
            f"Towers with a vocabulary of {n_known:,} need the tokenizer.json they were trained "
            "with; name that file."
        )
    n_ids = PieceTokenizer(tokenizer, config.text.context_length).vocab_size
    if n_ids > n_known:
        raise ConfigError(
            f"{tokenizer} makes ids up to {n_ids - 1:,}, but the text tower knows {n_known:,}; "
            "name the tokenizer that the towers were trained with."
        )


def _save(weights: dict[str, Tensor], path: Path, config: ProLIPConfig) -> None:
    path.write_bytes(b"")
    mode = path.stat().st_mode
    save_file(weights, path)
    path.chmod(mode)  # safetensors makes files that nobody else can read
    check_weights(path, expected_shapes(config))


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
