"""A ProLIP of two layers, batches that are drawn, and runs of a few steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prolip_search.encoders.config import ProLIPConfig, parse_config
from prolip_search.encoders.prolip import ProLIP
from prolip_search.train.datasets.batches import Batch
from prolip_search.train.towers.config import LoopConfig, TowersConfig
from prolip_search.train.towers.config import parse_config as parse_towers
from prolip_search.train.towers.forms import Masking, MaskTokens, masked_pairs
from prolip_search.train.towers.loop import train_towers
from prolip_search.train.towers.processes import Processes

MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8,
        "embed_unc": True, "init_unc_bias": -4.0,
    },
    "text_cfg": {
        "context_length": 8, "vocab_size": 40, "width": 16, "layers": 2, "heads": 2,
        "init_unc_bias": -4.0,
    },
    "init_logit_bias": -3.0,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "seed": 3,
    "batch_size": 8,
    "seen_samples": 48,
    "model": MODEL,
    "masking": {"share_of_pairs": 0.5},
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
    "checkpoints": {"every": 2},
}
TOKENS = MaskTokens(mask_id=39, never_masked=(1,))


def tiny_config(**changes: Any) -> TowersConfig:
    """The recipe above with some keys changed, tables key by key."""
    merged = {
        key: {**RECIPE[key], **value} if isinstance(RECIPE.get(key), dict) else value
        for key, value in changes.items()
    }
    return parse_towers({**RECIPE, **merged})


def tiny_model(seed: int = 0) -> ProLIP:
    """The same weights at every call."""
    torch.manual_seed(seed)
    return ProLIP.from_config(model_config())


def model_config() -> ProLIPConfig:
    """Of the tiny model."""
    return parse_config(MODEL)


def tiny_masking(config: LoopConfig) -> Masking:
    """The masking of the tiny model."""
    return masked_pairs(config.masking, TOKENS, model_config().vision)


def drawn_batch(n_pairs: int, seed: int) -> Batch:
    """Noise with a caption of noise, some of it padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 39, (n_pairs, 8), generator=generator)
    ids[:, 6:] = 1
    pixels = torch.randn(n_pairs, 3, 32, 32, generator=generator)
    return Batch(pixels, ids, [f"pair/{seed}-{row}" for row in range(n_pairs)])


class DrawnBatches:
    """Batches without end, each drawn from its number."""

    def __init__(self, n_pairs: int = 8) -> None:
        self.n_pairs = n_pairs
        self.n_done = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.n_done += 1
            yield drawn_batch(self.n_pairs, self.n_done % 5)

    def state_dict(self) -> dict[str, Any]:
        """How many were handed out."""
        return {"n_done": self.n_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on after so many."""
        self.n_done = state["n_done"]

    def take_over(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after as many as those did."""
        self.load_state_dict(states[0])


def photo_config(data: Path, **changes: Any) -> TowersConfig:
    """A run of whole towers on the train split of a folder, its vocabulary made from it."""
    given = {"paths": [str(data / "train.parquet")], "threads": 2}
    return tiny_config(data=given, tokenizer="train:60", **changes)


def tiny_run(out: Path, config: LoopConfig | None = None, **options: Any) -> ProLIP:
    """Trains the tiny model on drawn batches."""
    config = config or tiny_config()
    model = tiny_model()
    processes = options.pop("processes", None) or Processes("cpu")
    batches = options.pop("batches", None) or DrawnBatches(config.batch_size)
    train_towers(config, model, batches, tiny_masking(config), out, processes=processes, **options)
    return model
