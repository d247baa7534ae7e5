"""From captioned images to an encoder's folder: what `prolip-search train` runs for towers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prolip_search.encoders.preprocessing import ImagePreprocessing
from prolip_search.encoders.prolip import ProLIP
from prolip_search.images import quiet_pillow
from prolip_search.train.datasets.captioned import SUFFIXES, open_captioned
from prolip_search.train.datasets.opening import loader_of, open_stream
from prolip_search.train.datasets.shard_names import is_remote
from prolip_search.train.datasets.skips import SkipReport
from prolip_search.train.towers.config import TowersConfig
from prolip_search.train.towers.export import export_released
from prolip_search.train.towers.forms import masked_pairs
from prolip_search.train.towers.initial import initialise
from prolip_search.train.towers.loop import Step, train_towers
from prolip_search.train.towers.processes import Processes
from prolip_search.train.towers.validation import validation
from prolip_search.train.towers.vocabulary import open_vocabulary

__all__ = ["TowersResult", "train_prolip", "with_data"]


@dataclass(frozen=True)
class TowersResult:
    """What a run gives: the encoder's folder, the last figures on val, and what was skipped."""

    folder: Path
    val: dict[str, float]
    skipped: SkipReport


def with_data(
    config: TowersConfig, data: str | Path | None, val: Path | None = None
) -> tuple[TowersConfig, Path | None]:
    """A recipe told of its data, and where to measure; without data, the recipe's own paths hold.

    In a folder with a file of the split "train" (train.parquet, train-0000.tar, …) that is taken
    where the recipe names no split, and its "val" for measuring, where there is one.
    """
    if data is None:
        return config, val
    split = config.data.split
    if split is None and not is_remote(str(data)) and Path(data).is_dir():
        names = sorted(file.name for file in Path(data).iterdir())
        split = "train" if any(name.startswith(("train.", "train-")) for name in names) else None
        held_out = [name for name in names if name.startswith("val.")]
        val = val or next((Path(data) / n for n in held_out if Path(n).suffix in SUFFIXES), None)
    paths = replace(config.data, paths=(str(data),), split=split)
    return replace(config, data=paths), val


def train_prolip(
    config: TowersConfig,
    out: Path,
    *,
    val: Path | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    report: Callable[[Step], None] = lambda step: None,
    note: Callable[[str], None] = lambda line: None,
) -> TowersResult:
    """Trains the towers of a recipe on `config.data` and exports them to `out/encoder`.

    val: captioned images to measure retrieval on. report: told of each step. note: told, a line
    each, where the weights began and what else a person should know. Raises TrainingDataError,
    TrainingError, ConfigError, EncoderNotFound, CheckpointError.
    """
    processes = processes or Processes(config.execution.device)
    held_out = None if val is None else open_captioned(val)
    # The data first: whether it is there shows at once, and what follows may fetch an encoder.
    samples = open_stream(
        config.data, seed=config.seed, rank=processes.rank, world=processes.world_size
    )
    vocabulary = open_vocabulary(config, out, processes)
    loader = loader_of(
        config.data,
        *samples,
        batch_size=config.batch_size // processes.world_size,
        preprocessing=ImagePreprocessing(size=config.model.vision.image_size),
        tokenizer=vocabulary.tokenizer,
        # Bytes are a quarter of what floats cost to carry to an accelerator.
        normalise=processes.device.type == "cpu",
        skips_file=out / f"skipped{'' if processes.is_main else f'-{processes.rank}'}.jsonl",
    )
    torch.manual_seed(config.seed)
    model = ProLIP.from_config(vocabulary.model)
    began = initialise(model, config.initial)
    if processes.is_main:
        for line in (*began.lines(), f"{model.config.n_parameters:,} parameters"):
            note(line)

    measure = None if held_out is None else validation(held_out, vocabulary, processes)
    with quiet_pillow():
        trained = train_towers(
            config,
            model,
            loader,
            masked_pairs(config.masking, vocabulary.masks, vocabulary.model.vision),
            out,
            processes=processes,
            resume=resume,
            validate=measure,
            report=report,
        )
    folder = out / "encoder"
    figures = _last_line(out / "validation.jsonl")
    if processes.is_main:
        export_released(
            trained.state_dict(),
            vocabulary.model,
            folder,
            tokenizer=vocabulary.file,
            training={
                "recipe": config.to_json(),
                "initialisation": began.to_json(),
                "val": figures,
            },
        )
    processes.wait()
    return TowersResult(folder, figures, loader.skipped)


def _last_line(path: Path) -> dict[str, Any]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return json.loads(lines[-1]) if lines else {}
