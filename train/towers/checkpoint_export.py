"""From a training checkpoint to an encoder's folder, for a run that has not come to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from prolip_search.encoders.config import parse_config
from prolip_search.encoders.tokenizers import CLIP_VOCABULARY
from prolip_search.errors import CheckpointError
from prolip_search.train.towers.checkpoint import read_whole
from prolip_search.train.towers.export import export_released

__all__ = ["export_checkpoint", "newest_checkpoint"]

TOKENIZER = "tokenizer.json"


def export_checkpoint(checkpoint: Path, folder: Path, *, tokenizer: Path | None = None) -> Path:
    """Write the towers of a checkpoint into a folder in the released layout.

    checkpoint: the file, or a run's folder, of which the newest is taken. The averaged weights are
    exported where the run keeps an average. tokenizer: else the one in the run's folder; none is
    needed for CLIP's vocabulary. Raises CheckpointError, ConfigError, TrainingError.
    """
    file = newest_checkpoint(checkpoint) if checkpoint.is_dir() else checkpoint
    try:
        header, tensors = read_whole(file)
        values = header["config"]
        config = parse_config(values["model"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} is no whole checkpoint of towers ({error}); name a run's folder, or a file "
            "step-….safetensors of its checkpoints."
        ) from error
    kept = {
        part: {
            name.removeprefix(f"{part}."): value
            for name, value in tensors.items()
            if name.startswith(f"{part}.")
        }
        for part in ("averaged", "parameters")
    }
    weights = kept["averaged"] or kept["parameters"]
    n_ids = len(weights.get("text.token_embedding.weight", ()))
    if n_ids and n_ids != config.text.vocab_size:  # a vocabulary made from the captions
        config = replace(config, text=replace(config.text, vocab_size=n_ids, tokenizer_name=None))
    return export_released(
        weights,
        config,
        folder,
        tokenizer=_tokenizer(file, n_ids, tokenizer),
        training={
            "recipe": values,
            "step": header["step"],
            "weights": "averaged" if kept["averaged"] else "of the last step",
            "version": header["version"],
            "commit": header["commit"],
        },
    )


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run's folder, or of its checkpoints'. Raises CheckpointError."""
    files = sorted([*run.glob("checkpoints/step-*.safetensors"), *run.glob("step-*.safetensors")])
    if not files:
        raise CheckpointError(
            f"There is no checkpoint in {run}; name the folder that a run was trained into."
        )
    return files[-1]


def _tokenizer(file: Path, n_ids: int, tokenizer: Path | None) -> Path | None:
    if tokenizer is not None or n_ids == CLIP_VOCABULARY:
        return tokenizer
    run = file.parent.parent
    beside = (run / TOKENIZER, run / "encoder" / TOKENIZER)
    return next((path for path in beside if path.is_file()), None)
